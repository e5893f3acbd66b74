"""Documents over HTTP: what goes in is found, what changes is seen, what goes out is gone."""

from __future__ import annotations

import asyncio
from typing import Any

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
