"""Every command against a running `ragline up`: what a user sees, and what a script gets."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from .conftest import Shell


@pytest.fixture(scope="module")
def library(shell: Shell) -> Path:
    """A folder with good and bad documents, ingested into `default`."""
    folder = shell.folder / "library"
    (folder / "guides").mkdir(parents=True)
    (folder / "returns.md").write_text("# Returns\n\nYou may return an item within 30 days of delivery.\n")
    (folder / "guides" / "shipping.txt").write_text("Shipping to Berlin takes three days.")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "noise.bin").write_bytes(bytes(range(256)) * 8)
    (folder / "gone.md").symlink_to(folder / "nowhere")
    (folder / ".secret.md").write_text("hidden")
    (folder / "guides" / "loop").symlink_to(folder)
    done = shell("ingest", str(folder), "--json", code=1).json
    assert {key: done[key] for key in ("namespace", "created", "indexed")} == {
        "namespace": "default", "created": False, "indexed": 2,
    }  # fmt: skip
    assert sorted(one["uri"] for one in done["failed"]) == ["empty.txt", "gone.md", "noise.bin"]
    assert done["documents"] == {"failed": 2, "indexed": 2}
    return folder


def test_ingest_again_changes_nothing_and_says_what_failed(shell: Shell, library: Path) -> None:
    before = shell("namespaces", "show", "default", "--json").json
    done = shell("ingest", str(library), code=1)
    assert "Indexed 2 of 5 documents" in done.out
    assert "empty.txt\tempty: " in done.out
    assert "gone.md\tcannot be read: No such file or directory" in done.out
    after = shell("namespaces", "show", "default", "--json").json
    assert after["sequence"] == before["sequence"] + 2, "only what had failed is tried anew"
    assert after["chunks"] == before["chunks"]


def test_ask_answers_with_its_sources(shell: Shell, library: Path) -> None:
    shown = shell("ask", "How", "long", "may", "I", "return", "an", "item?").out
    assert "30 days" in shown
    assert "Sources\n  [1] Returns · returns.md" in shown
    answer = shell("ask", "How long may I return an item?", "--json").json
    assert answer["grounded"]
    assert [answer["passages"][n - 1]["uri"] for n in answer["citations"]] == ["returns.md"]


def test_search_shows_passages(shell: Shell, library: Path) -> None:
    assert "[1] shipping.txt · guides/shipping.txt  (" in shell("search", "Berlin").out
    found = shell("search", "Berlin", "--top-k", "1", "--leg", "keyword", "--distinct", "--json").json
    assert [one["uri"] for one in found["passages"]] == ["guides/shipping.txt"]
    assert list(found["passages"][0]["ranks"]) == ["keyword"]
    assert shell("search", "zzzzqqqq", "--leg", "keyword").err == "Nothing found.\n"


def test_documents_are_found_by_id_and_by_uri(shell: Shell, library: Path) -> None:
    listed = shell("documents", "list", "--state", "failed", "--json").json
    assert sorted(one["uri"] for one in listed["documents"]) == ["empty.txt", "noise.bin"]
    assert shell("documents", "list", "--limit", "1", "--json").json["more"]
    assert shell("documents", "list").out.splitlines()[0].split("\t")[:3] == ["id", "uri", "state"]
    one = shell("documents", "show", "guides/shipping.txt", "--json").json
    assert shell("documents", "show", one["id"], "--json").json == one
    assert "served    its newest content" in shell("documents", "show", one["id"]).out
    missing = shell("documents", "show", "nothing.txt", code=1)
    assert missing.err.startswith("error: There is no document 'nothing.txt' in namespace 'default'.\nnext: ")


def test_why_tells_the_story(shell: Shell, library: Path) -> None:
    story = shell("documents", "why", "empty.txt").out
    assert "empty.txt is failed: empty: " in story
    assert "Next: Nothing by itself" in story
    events = [entry["event"] for entry in shell("documents", "why", "empty.txt", "--json").json["history"]]
    assert events[:2] == ["created", "failed"]


def test_retry_and_delete(shell: Shell) -> None:
    shell("ingest", "-", "--uri", "once.txt", "--namespace", "short", stdin=b"Only for a moment.")
    assert shell("documents", "retry", "once.txt", "-n", "short").out == "1 of 1 indexed.\n"
    assert shell("documents", "retry", "--failed", "-n", "short").out == "0 of 0 indexed.\n"
    assert "Which documents?" in shell("documents", "retry", "-n", "short", code=2).err
    assert shell("documents", "delete", "once.txt", "-n", "short").out == "1 deleted.\n"
    shell("documents", "show", "once.txt", "-n", "short", code=1)
    assert shell("search", "moment", "-n", "short", "--json").json["passages"] == []


def test_stdin_without_a_wait(shell: Shell) -> None:
    assert shell("ingest", "-", "--uri", "piped.md", "-n", "piped", "--no-wait", "--json", stdin=b"# P\n\nPiped.").json[
        "accepted"
    ] == 1  # fmt: skip
    assert "Standard input has no name." in shell("ingest", "-", code=2).err
    assert "stands beside" in shell("ingest", "-", "other", code=2).err


def test_records_with_metadata_groups_and_bad_lines(shell: Shell) -> None:
    shell("namespaces", "create", "papers", "--field", "year=integer")
    lines = [
        '{"_id": "a", "title": "Cats", "text": "The cat sat.", "year": 2020}',
        '{"_id": "b", "text": "Dogs bark.", "year": 2021}',
        '{"_id": "c", "text": "Birds sing.", "year": "no"}',
        "nonsense",
    ]
    done = shell("ingest", "-", "--records", "-n", "papers", "--json", stdin="\n".join(lines).encode(), code=1).json
    assert done["indexed"] == 2
    assert {one["uri"]: one["reason"].split(":")[0] for one in done["failed"]} == {
        "c": "refused",
        "stdin:4": "bad line",
    }
    found = shell("search", "animals", "-n", "papers", "--filter", '{"year": {"gte": 2021}}', "--json").json
    assert [one["uri"] for one in found["passages"]] == ["b"]
    assert shell("documents", "delete", "--filter", '{"year": 2020}', "--dry-run", "-n", "papers").out.startswith("1 ")
    assert "Say --yes" in shell("documents", "delete", "--filter", '{"year": 2020}', "-n", "papers", code=2).err
    shell("documents", "delete", "--filter", '{"year": 2020}', "-n", "papers", "--yes")
    assert [one["uri"] for one in shell("documents", "list", "-n", "papers", "--json").json["documents"]] == ["b"]


def test_a_namespace_is_made_set_reindexed_and_deleted(shell: Shell) -> None:
    assert shell("ingest", "-", "--uri", "x.txt", "-n", "brief", "--json", stdin=b"Some text.").json["created"]
    first = shell("namespaces", "show", "brief", "--json").json
    shell("namespaces", "set", "brief", "--chunk-tokens", "100", "--field", "lang=keyword", "--fusion", "convex")
    shell("namespaces", "set", "brief", "--weights", '{"dense": 2}')
    settings = shell("namespaces", "show", "brief", "--json").json["settings"]
    assert (settings["chunk_tokens"], settings["fields"]) == (100, {"lang": "keyword"})
    assert settings["fusion"] == {"method": "convex", "weights": {"keyword": 0.0, "dense": 2.0}}
    assert shell("reindex", "-n", "brief").out.startswith("brief: served from ")
    again = shell("namespaces", "show", "brief", "--json").json
    assert again["epoch"] != first["epoch"]
    assert again["serving_fields"] == {"lang": "keyword"}
    assert shell("reindex", "-n", "brief", "--reparse", "--json").json["failed"] == []
    assert shell("search", "text", "-n", "brief", "--json").json["passages"][0]["uri"] == "x.txt"
    shell("namespaces", "set", "brief", "--verify-within", "1s")
    while not (stale := shell("documents", "redrive", "-n", "brief", "--json").json["documents"]):
        time.sleep(0.2)
    assert [(one["uri"], one["done"]) for one in stale] == [("x.txt", "unverified")]
    assert "unverified" in shell("documents", "redrive", "-n", "brief").out
    assert "freshness     verified within 1 s" in shell("namespaces", "set", "brief", "--verify-within", "1s").out
    shell("namespaces", "set", "brief", "--verify-within", "0s")
    assert shell("documents", "redrive", "-n", "brief").out == "No document of brief is stale.\n"
    assert "no length of time" in shell("namespaces", "set", "brief", "--verify-within", "soon", code=2).err
    assert "brief" in shell("namespaces", "list").out
    assert "Say --yes" in shell("namespaces", "delete", "brief", code=2).err
    assert "are deleted" in shell("namespaces", "delete", "brief", "--yes").out
    assert "'brief' does not exist" in shell("namespaces", "show", "brief", code=1).err


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "x", "--filter", "{bad"),
        ("search", "x", "--filter", "[1]"),
        ("ask", "x", "--filter", '"text"'),
        ("ingest", ".", "--metadata", "{bad"),
        ("ingest", "/there/is/nothing/here"),
        ("namespaces", "create", "x", "--field", "year"),
        ("namespaces", "set", "default"),
        ("keys", "create", "me", "--expires", "soon"),
        ("documents", "list", "--state", "odd"),
        ("nonsense",),
    ],
)
def test_wrong_usage_is_2_and_changes_nothing(shell: Shell, arguments: tuple[str, ...]) -> None:
    assert shell(*arguments, code=2).out == ""


def test_errors_are_json_when_json_is_asked_for(shell: Shell) -> None:
    problem = json.loads(shell("search", "x", "-n", "nowhere", "--json", code=1).err)
    assert problem["status"] == 404
    assert problem["detail"] == "Namespace 'nowhere' does not exist."
    assert json.loads(shell("search", "x", "--filter", "{", "--json", code=2).err)["type"] == "about:blank#WrongUsage"
    for arguments in (("search", " "), ("search", "x", "-k", "0"), ("search", "x", "-k", "1000000")):
        assert json.loads(shell(*arguments, "--json", code=1).err)["status"] == 422


def test_doctor_looks_at_the_server_that_has_the_folder(shell: Shell) -> None:
    findings = {one["part"]: one for one in shell("doctor", "--json").json["findings"]}
    assert {"python", "disk", "data folder", "server", "embedder", "generator"} <= findings.keys()
    assert all(one["state"] != "broken" for one in findings.values())
    assert "is ready" in findings["server"]["detail"]


def test_keys_open_what_they_should(shell: Shell) -> None:
    """Last in this module: from the first key on, the server asks for one."""
    shell("ingest", "-", "--uri", "secret.txt", "-n", "vault", "--group", "board", stdin=b"The password is tulip.")
    reader = shell("keys", "create", "bob", "--namespace", "vault", "--expires", "1h").out.strip()
    board = shell("keys", "create", "eve", "--group", "board", "--role", "write", "--json").json
    assert shell("search", "password", "-n", "vault", "--json", key=reader).json["passages"] == []
    assert shell("search", "password", "-n", "vault", "--json", key=board["token"]).json["passages"]
    assert "not for namespace" in shell("search", "x", "-n", "default", key=reader, code=1).err
    assert "needs write" in shell("ingest", "-", "--uri", "x", "-n", "vault", stdin=b"x", key=reader, code=1).err
    assert "not known" in shell("search", "x", key="rgl_0_0", code=1).err
    assert [line.split("\t")[1] for line in shell("keys", "list").out.splitlines()] == ["principal", "bob", "eve"]
    fresh = shell("keys", "rotate", board["id"], "--grace", "1h", "--json").json["token"]
    for token in (fresh, board["token"]):
        shell("namespaces", "list", key=token)
    assert "is revoked" in shell("keys", "revoke", board["id"]).out
    assert "revoked" in shell("namespaces", "list", key=fresh, code=1).err


def test_a_language_that_the_embedder_does_not_know_is_said(shell: Shell) -> None:
    text = "Der Hafenmeister schreibt jedes Schiff auf, das einläuft, seine Ladung und die Stunde der Abfahrt."
    done = shell("ingest", "-", "--uri", "hafen.txt", "-n", "deutsch", stdin=text.encode())
    assert "The embedder does not know the language of 1 of them (1 in de)" in done.err
    assert "language  de" in shell("documents", "show", "hafen.txt", "-n", "deutsch").out
    assert "hardly by its meaning" in shell("documents", "why", "hafen.txt", "-n", "deutsch").out
    assert "languages     1 de" in shell("namespaces", "show", "deutsch").out
