"""Documents over HTTP: what goes in is found, what changes is seen, what goes out is gone."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ragline.api import documents as routes
from ragline.build import build
from ragline.ingest import InWork
from ragline.settings import IngestSettings, Settings
from ragline.types import Document
from tests.api.conftest import Api

PATH = "/v1/namespaces/default/documents"


async def test_an_uploaded_file_is_found_with_its_place_in_the_text(api: Api) -> None:
    text = (
        "# Returns\n\nUnopened items may be returned within thirty days. " + "A receipt is needed for that. " * 12
    ) + ("\n\n# Shipping\n\nWe ship on weekdays. " + "Parcels are insured. " * 20 + "\n")
    accepted = await api.upload(("policy.md", text))
    (document,) = accepted["documents"]
    assert (document["uri"], document["state"]) == ("policy.md", "indexed")
    found = await api.search("return an unopened item", min_sequence=accepted["sequence"])
    best = found["passages"][0]
    assert best["document"] == document["id"]
    assert "thirty days" in best["text"]
    assert best["headings"] == ["Returns"]
    assert best["ranks"].keys() == {"keyword", "dense"}
    assert found["degraded"] == []
    assert found["sequence"] >= accepted["sequence"]
    original = await api.call("GET", f"{PATH}/{document['id']}/original")
    assert original.content.decode() == text
    chunks = (await api.call("GET", f"{PATH}/{document['id']}/chunks"))["chunks"]
    assert best["chunk"] in {chunk["id"] for chunk in chunks}


async def test_the_same_bytes_again_change_nothing_and_new_bytes_replace(api: Api) -> None:
    first = await api.upload(("capital.txt", "The capital of Ruritania is Strelsau."))
    again = await api.upload(("capital.txt", "The capital of Ruritania is Strelsau."))
    assert [one["outcome"] for one in first["documents"] + again["documents"]] == ["created", "unchanged"]
    assert again["documents"][0]["revision"] == first["documents"][0]["revision"]
    assert again["sequence"] == first["sequence"]
    changed = await api.upload(("capital.txt", "The capital of Ruritania is now Zenda."))
    assert changed["documents"][0]["revision"] > first["documents"][0]["revision"]
    found = await api.search("capital of Ruritania", min_sequence=changed["sequence"], top_k=50)
    texts = [p["text"] for p in found["passages"] if p["uri"] == "capital.txt"]
    assert texts == ["The capital of Ruritania is now Zenda."]


async def test_an_archive_is_waited_for_whole_and_its_files_are_documents(api: Api) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ponds/grebes.md", "# Grebes\n\nGrebes build floating nests.")
        archive.writestr("noise.bin", bytes(range(256)) * 64)
    accepted = await api.upload(("birds.zip", packed.getvalue()), metadata={"year": 2026})
    (outer,) = accepted["documents"]
    assert outer["state"] == "indexed"
    inner = (await api.call("GET", PATH, params={"uri": "birds.zip!/ponds/grebes.md"}))["documents"][0]
    noise = (await api.call("GET", PATH, params={"uri": "birds.zip!/noise.bin"}))["documents"][0]
    assert (inner["parent"], inner["root"], inner["depth"], inner["state"], inner["metadata"]) == (
        outer["id"],
        outer["id"],
        1,
        "indexed",
        {"year": 2026},
    )
    assert (noise["state"], noise["reason"].split(":")[0]) == ("failed", "unsupported")
    assert (await api.call("GET", f"{PATH}/{outer['id']}"))["members"] == 2
    found = await api.search("floating nests")
    assert found["passages"][0]["uri"] == "birds.zip!/ponds/grebes.md"
    original = await api.call("GET", f"{PATH}/{inner['id']}/original")
    assert original.content.decode().startswith("# Grebes")
    refused = await api.upload(("x", "Mine."), uri="birds.zip!/ponds/grebes.md", status=409)
    assert "inside another document" in refused["detail"]
    await api.call("DELETE", f"{PATH}/{outer['id']}")
    await api.call("GET", f"{PATH}/{inner['id']}", status=404)
    assert all("grebes" not in passage["uri"] for passage in (await api.search("floating nests"))["passages"])


async def test_many_files_at_once_each_end_for_themselves(api: Api) -> None:
    accepted = await api.upload(
        ("good.txt", "A perfectly good document about lighthouses."),
        ("empty.txt", ""),
        ("noise.bin", bytes(range(256)) * 64),
    )
    by_uri: dict[str, Any] = {document["uri"]: document for document in accepted["documents"]}
    assert by_uri["good.txt"]["state"] == "indexed"
    assert by_uri["empty.txt"]["state"] == "failed"
    assert by_uri["empty.txt"]["reason"].startswith("empty:")
    assert by_uri["noise.bin"]["reason"].startswith("unsupported:")
    story = await api.call("GET", f"{PATH}/{by_uri['empty.txt']['id']}/why")
    assert [entry["event"] for entry in story["history"]] == ["created", "failed"]
    assert "retry" in story["next"]


async def test_a_failed_document_can_be_retried_and_says_so(api: Api) -> None:
    (document,) = (await api.upload(("broken.pdf", b"%PDF-1.7\nnothing more")))["documents"]
    assert document["reason"].startswith("damaged:")
    again = await api.call("POST", f"{PATH}/{document['id']}/retry", status=202)
    assert again["revision"] > document["revision"]
    await api.system.documents.settled_all({document["id"]: again["revision"]}, deadline_s=60)
    events = [entry["event"] for entry in (await api.call("GET", f"{PATH}/{document['id']}/why"))["history"]]
    assert events == ["created", "failed", "retried", "failed"]


async def test_a_deleted_document_is_gone_from_the_next_search(api: Api) -> None:
    accepted = await api.upload(("secret.txt", "The password of the week is marmalade."))
    (document,) = accepted["documents"]
    assert (await api.search("password marmalade"))["passages"][0]["document"] == document["id"]
    gone = await api.call("DELETE", f"{PATH}/{document['id']}")
    assert all(p["document"] != document["id"] for p in (await api.search("password marmalade"))["passages"])
    await api.call("GET", f"{PATH}/{document['id']}", status=404)
    await api.call("DELETE", f"{PATH}/{document['id']}", status=404)
    assert await api.system.documents.settled("default", gone["sequence"], deadline_s=60)
    namespace = await api.system.namespaces.get("default")
    held = await api.system.vectors.contents(namespace.epoch.vectors)
    assert not any(id == document["id"] for id, _ in held)
    assert not await api.system.contents._blobs.paths(f"default-{namespace.uid}/{document['id']}")


async def test_deleting_by_filter_needs_a_filter_and_takes_only_what_matches(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/years", json={"fields": {"year": "integer"}}, status=201)
    path = "/v1/namespaces/years/documents"
    for year in (2020, 2021, 2022):
        await api.upload((f"{year}.txt", f"Report of the year {year}."), namespace="years", metadata={"year": year})
    await api.call("DELETE", path, params={"filters": "{}"}, status=422)
    dry = await api.call("DELETE", path, params={"filters": '{"year": {"lte": 2021}}', "dry_run": "true"})
    gone = await api.call("DELETE", path, params={"filters": '{"year": {"lte": 2021}}'})
    assert sorted(dry["deleted"]) == sorted(gone["deleted"])
    left = (await api.call("GET", path))["documents"]
    assert [document["uri"] for document in left] == ["2022.txt"]


async def test_listing_pages_through_everything_once(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/pages", status=201)
    path = "/v1/namespaces/pages/documents"
    await api.upload(*((f"{n}.txt", f"Page number {n}.") for n in range(7)), namespace="pages")
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await api.call("GET", path, params={"limit": 3, "cursor": cursor})
        seen += [document["uri"] for document in page["documents"]]
        cursor = page["next"]
    assert sorted(seen) == [f"{n}.txt" for n in range(7)]
    assert (await api.call("GET", path, params={"state": "failed"}))["documents"] == []


async def test_one_uri_twice_at_once_is_one_document_and_the_later_one_wins(api: Api) -> None:
    one, two = await asyncio.gather(
        api.upload(("race.txt", "Version one of the race.")), api.upload(("race.txt", "Version two of the race."))
    )
    later = max(one, two, key=lambda answer: int(answer["sequence"]))
    found = await api.search("version of the race", min_sequence=later["sequence"])
    texts = [p["text"] for p in found["passages"] if p["uri"] == "race.txt"]
    assert texts == ["Version two of the race." if later is two else "Version one of the race."]


async def test_names_with_slashes_and_control_characters_are_names(api: Api) -> None:
    text = "Nothing leaves its folder."
    accepted = await api.upload(("x", text), ("y", text), uri=["../../etc/passwd", "a\x07b\nc.txt"])
    uris = [document["uri"] for document in accepted["documents"]]
    assert uris == ["../../etc/passwd", "a%07b%0Ac.txt"]
    assert all(document["state"] == "indexed" for document in accepted["documents"])
    folder = api.system.settings.data_dir
    assert not list(folder.parent.rglob("passwd"))


async def test_metadata_of_a_declared_field_must_have_its_type(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/typed", json={"fields": {"year": "integer"}}, status=201)
    problem = await api.upload(("a.txt", "text"), namespace="typed", metadata={"year": "late"}, status=422)
    assert problem["field"] == "metadata.year"


async def test_groups_bind_at_once_and_cost_no_new_embedding(api: Api) -> None:
    (document,) = (await api.upload(("salary.txt", "Salaries are paid on the last Friday."), groups=["hr"]))[
        "documents"
    ]
    hr, staff = await api.new_key(groups=["hr", "all"]), await api.new_key(groups=["all"])
    query = "when are salaries paid"

    async def sees(key: str) -> bool:
        found = await api.search(query, key=key)
        return any(passage["document"] == document["id"] for passage in found["passages"])

    assert (await sees(hr), await sees(staff)) == (True, False)
    await api.call("GET", f"{PATH}/{document['id']}", key=staff, status=404)
    changed = await api.upload(("salary.txt", "Salaries are paid on the last Friday."), groups='["all"]')
    assert (await sees(hr), await sees(staff)) == (True, True)
    row = await api.system.documents.get("default", document["id"])
    assert (row.content, row.revision) == (document["revision"], changed["sequence"])
    await api.upload(("salary.txt", "Salaries are paid on the last Friday."), groups=["board"], wait=False, status=202)
    assert (await sees(hr), await sees(staff)) == (False, False)


def _part(name: str, filename: bytes) -> bytes:
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="'.encode()
    return head + filename + b'"\r\nContent-Type: text/plain\r\n\r\nhello\r\n--B--\r\n'


@pytest.mark.parametrize(("charset", "field"), [("undefined", "body"), ("unicode_escape", "uri"), ("utf-7", "uri")])
async def test_a_form_in_an_odd_charset_is_a_bad_request(api: Api, charset: str, field: str) -> None:
    filename = {"undefined": b"x", "unicode_escape": b"\\ud800x.txt", "utf-7": b"+2AA-x.txt"}[charset]
    kind = {"Content-Type": f"multipart/form-data; boundary=B; charset={charset}"}
    problem = await api.call("POST", PATH, content=_part("file", filename), headers=kind, status=422)
    assert problem["field"] == field


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"metadata": '{"a": NaN}'}, "metadata"),
        ({"metadata": '{"a": -Infinity}'}, "metadata"),
        ({"metadata": '{"a": 1e999}'}, "metadata.a"),
        ({"metadata": '{"a": 9223372036854775808}'}, "metadata.a"),
        ({"metadata": '{"a": [1, -9223372036854775809]}'}, "metadata.a"),
        ({"metadata": '{"a": {"b": 1}}'}, "metadata.a"),
        ({"metadata": '{"a": [["b"]]}'}, "metadata.a"),
        ({"metadata": '{"a": ' + "[" * 900 + "]" * 900 + "}"}, "metadata.a"),
        ({"metadata": '{"a": ["\\ud800"]}'}, "metadata"),
        ({"metadata": '{"\\ud800": 1}'}, "metadata"),
        ({"groups": '["\\ud800"]'}, "groups"),
        ({"title": "t" * 2_001}, "title"),
        ({"uri": "u" * 2_001}, "uri"),
    ],
)
async def test_what_cannot_be_kept_is_refused_by_name(api: Api, form: dict[str, str], field: str) -> None:
    problem = await api.call("POST", PATH, files=[("file", ("a.txt", b"text"))], data=form, status=422)
    assert problem["field"] == field


async def test_flat_metadata_is_kept_as_it_is(api: Api) -> None:
    flat = {"a": [1, "x", None, True, 0.5], "b": -(2**63), "c": 2**63 - 1, "d": None}
    (document,) = (await api.upload(("flat.txt", "Flat."), metadata=flat))["documents"]
    assert (await api.call("GET", f"{PATH}/{document['id']}"))["metadata"] == flat


async def test_two_files_of_one_uri_in_one_request_are_refused(api: Api) -> None:
    problem = await api.upload(("twice.txt", "One."), ("once.txt", "Two."), ("twice.txt", "Three."), status=422)
    assert problem["field"] == "uri"
    assert "twice.txt" in problem["detail"]
    assert (await api.call("GET", PATH, params={"uri": "once.txt"}))["documents"] == []


async def test_a_listing_does_not_tell_a_reader_of_what_it_may_not_read(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "PAGE", 2)
    await api.call("PUT", "/v1/namespaces/mixed", status=201)
    path = "/v1/namespaces/mixed/documents"
    for n in range(6):
        await api.upload((f"open-{n}.txt", f"Open {n}."), namespace="mixed")
        await api.upload((f"secret-{n}.txt", f"Secret {n}."), namespace="mixed", groups=["board"])
    reader = await api.new_key(namespaces=["mixed"])

    async def listed(**params: Any) -> Any:
        return await api.call("GET", path, key=reader, params=params)

    assert await listed(uri="secret-0.txt", limit=1) == await listed(uri="absent.txt", limit=1)
    seen: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await listed(limit=2, cursor=cursor)
        seen.append([document["uri"] for document in page["documents"]])
        cursor = page["next"]
    assert [len(uris) for uris in seen] == [2, 2, 2]
    assert sorted(uri for uris in seen for uri in uris) == [f"open-{n}.txt" for n in range(6)]


async def test_a_writer_sees_every_entry_but_contents_only_by_its_groups(api: Api) -> None:
    (document,) = (await api.upload(("merger.txt", "The merger is in May."), groups=["board"]))["documents"]
    writer, member = await api.new_key(role="write"), await api.new_key(role="write", groups=["board"])
    admin, reader = await api.new_key(role="admin"), await api.new_key()
    entry = f"{PATH}/{document['id']}"
    for path in (entry, f"{entry}/why"):
        await api.call("GET", path, key=writer)
    for path in (f"{entry}/original", f"{entry}/chunks"):
        await api.call("GET", path, key=writer, status=403)
        await api.call("GET", path, key=reader, status=404)
        await api.call("GET", path, key=member)
        await api.call("GET", path, key=admin)


async def test_deleting_by_filter_passes_over_what_was_stored_before_the_declaration(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/later", status=201)
    path = "/v1/namespaces/later/documents"
    await api.upload(("old.txt", "Old."), namespace="later", metadata={"year": "long ago", "kind": "memo"})
    declared = {"fields": {"year": "integer", "kind": "keyword"}}
    await api.call("PATCH", "/v1/namespaces/later", json=declared)
    new = await api.upload(("new.txt", "New."), namespace="later", metadata={"year": 2020})
    gone = await api.call("DELETE", path, params={"filters": '{"year": {"lte": 2020}}'})
    assert gone["deleted"] == [new["documents"][0]["id"]]
    by_kind = await api.call("DELETE", path, params={"filters": '{"kind": "memo"}'})  # its year is not asked about
    assert len(by_kind["deleted"]) == 1


async def test_deleting_by_filter_counts_what_lies_inside_as_well(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/parts", json={"fields": {"year": "integer"}}, status=201)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for n in range(4):
            archive.writestr(f"{n}.txt", f"Part {n}.")
    archives = ((f"{name}.zip", out.getvalue()) for name in "abcde")
    await api.upload(*archives, ("alone.txt", "Alone."), namespace="parts", metadata={"year": 1})
    path, filters = "/v1/namespaces/parts/documents", {"filters": '{"year": 1}'}
    dry = await api.call("DELETE", path, params={**filters, "dry_run": "true"})
    gone = await api.call("DELETE", path, params=filters)
    assert (len(gone["deleted"]), gone["inside"]) == (len(dry["deleted"]), dry["inside"]) == (26, 20)
    assert set(gone["deleted"]) == set(dry["deleted"])
    assert (await api.call("GET", path))["documents"] == []


@pytest.fixture
def deleted_behind_the_page(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever pages through the documents of `racing` finds the one called gone.txt, which is deleted meanwhile."""
    reads, documents = api.system.documents.page, api.system.documents

    async def page(namespace: str, **wanted: Any) -> list[Document]:
        found = await reads(namespace, **wanted)
        for document in found:
            if document.uri == "gone.txt":
                await documents.delete(namespace, document.id)
        return found

    monkeypatch.setattr(documents, "page", page)


@pytest.mark.usefixtures("deleted_behind_the_page")
async def test_what_is_deleted_meanwhile_stops_neither_a_deletion_nor_a_reparse(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/racing", json={"fields": {"year": "integer"}}, status=201)
    path = "/v1/namespaces/racing"
    both = (("gone.txt", "Gone."), ("here.txt", "Here."))
    await api.upload(*both, namespace="racing", metadata={"year": 1})
    assert (await api.call("POST", f"{path}/reindex", json={"reparse": True}, status=202))["reparsing"] == 1
    await api.upload(*both, namespace="racing", metadata={"year": 1})
    gone = await api.call("DELETE", f"{path}/documents", params={"filters": '{"year": 1}'})
    assert len(gone["deleted"]) == 1


async def test_metadata_of_a_megabyte_is_refused_by_name_and_stops_no_other_file(api: Api) -> None:
    long = json.dumps({"note": "n" * (1 << 20)})
    path = "/v1/namespaces/default/documents"
    alone = await api.call("POST", path, files=[("file", ("long.txt", b"x"))], data={"metadata": long}, status=413)
    assert alone["field"] == "metadata"
    assert "metadata of 1048588 bytes is over the limit of 65536" in alone["detail"]
    assert "ingest.max_metadata_bytes" in alone["next_step"]
    both = await api.call(
        "POST", path, files=[("file", ("long.txt", b"Herons.")), ("file", ("short.txt", b"Herons wade."))],
        data={"metadata": [long, "{}"]}, status=202,
    )  # fmt: skip
    assert [(one["state"], one.get("retryable")) for one in both["documents"]] == [
        ("refused", False),
        ("received", None),
    ]
    huge = json.dumps({"note": "n" * (17 << 20)})
    refused = await api.call("POST", path, files=[("file", ("a.txt", b"x"))], data={"metadata": huge}, status=413)
    assert "A field of the form is over 16 MiB." in refused["detail"]


async def test_metadata_of_a_megabyte_is_kept_where_the_setting_allows_it(tmp_path: Path) -> None:
    system = await build(Settings(data_dir=tmp_path, ingest=IngestSettings(max_metadata_bytes=2 << 20)))
    try:
        api = Api(system)
        note = "n" * (1 << 20)
        form = {"metadata": json.dumps({"note": note})}
        path = "/v1/namespaces/default/documents"
        taken = await api.call("POST", path, files=[("file", ("a.txt", b"Herons wade."))], data=form, status=202)
        for document in await system.claims.claim(most=1, lease_s=60.0):
            await system.ingest.process(document)
        shown = await api.call("GET", f"{path}/{taken['documents'][0]['id']}")
        assert (shown["state"], shown["metadata"]) == ("indexed", {"note": note})
        assert (await api.search("herons wade"))["passages"][0]["uri"] == "a.txt"
    finally:
        await system.aclose()


async def test_a_broken_form_is_told_as_one(api: Api) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    path = "/v1/namespaces/default/documents"
    problem = await api.call("POST", path, content=b"--y\r\nnothing", headers=headers, status=422)
    assert problem["field"] in ("body", "file")
    assert "`file`" in problem["next_step"]


async def test_how_far_a_document_is_shows_while_it_is_in_work(api: Api) -> None:
    body = await api.upload(("far.txt", "Herons are far."))
    path = f"/v1/namespaces/default/documents/{body['documents'][0]['id']}"
    assert (await api.call("GET", path))["progress"] is None
    work = InWork(1, "embedding", begun_at=1.0, moved_at=1.0, done=128, total=2000)
    api.system.ingest.in_work[body["documents"][0]["id"]] = work
    try:
        progress = (await api.call("GET", path))["progress"]
    finally:
        api.system.ingest.in_work.clear()
    assert progress == {"stage": "embedding", "done": 128, "total": 2000, "attempt": 1, "begun_at": 1.0}
    story = await api.call("GET", f"{path}/why")
    assert (story["next"], story["next_at"]) == ("Nothing: what was accepted last is served.", None)
