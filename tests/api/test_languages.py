"""A document in a language that the embedder does not know: it is said, and its words count for more."""

from __future__ import annotations

import pytest

from ragline.fusion import RRF_K
from ragline.languages import MOST_DENSE

from .conftest import Api

RRF_MOST = 2 / (RRF_K + 1)
"""Of a passage that stands first in both legs."""

GERMAN = {
    "hafen.md": "Der Hafenmeister schreibt jedes Schiff auf, das einläuft, seine Ladung und die Stunde der Abfahrt.",
    "markt.md": "Auf dem Markt verkaufen die Bauern am Samstag Kartoffeln, Äpfel und frischen Käse aus der Region.",
    "schule.md": "Die Schule beginnt im August wieder, und die Kinder freuen sich auf ihre Freunde und die Lehrerin.",
}
ENGLISH = {
    "port.md": "The harbour master writes down every ship that comes in, its cargo, and the hour at which it leaves."
}


@pytest.fixture(scope="module")
async def mixed(api: Api) -> str:
    await api.call("PUT", "/v1/namespaces/mixed", status=201)
    await api.upload(*(GERMAN | ENGLISH).items(), namespace="mixed")
    await api.call("PUT", "/v1/namespaces/english", status=201)
    await api.upload(*ENGLISH.items(), namespace="english")
    return "mixed"


async def test_it_is_said_of_the_document_and_of_the_namespace(api: Api, mixed: str) -> None:
    shown = await api.call("GET", f"/v1/namespaces/{mixed}")
    assert (shown["languages"], shown["embedder_languages"]) == ({"de": 3, "en": 1}, ["en"])
    documents = (await api.call("GET", f"/v1/namespaces/{mixed}/documents"))["documents"]
    languages = {one["uri"]: one["language"] for one in documents}
    assert languages == dict.fromkeys(GERMAN, "de") | {"port.md": "en"}
    for one in documents:
        story = await api.call("GET", f"/v1/namespaces/{mixed}/documents/{one['id']}/why")
        warnings = [entry["detail"] for entry in story["history"] if entry["event"] == "warning"]
        assert bool(warnings) == (one["language"] == "de")
        assert all("found by its words" in warning and "embedder.url" in warning for warning in warnings)


async def test_a_namespace_in_the_embedders_language_pays_nothing(api: Api, mixed: str) -> None:
    shown = await api.call("GET", "/v1/namespaces/english")
    assert shown["languages"] == {}
    assert not (await api.system.namespaces.get("english")).foreign
    found = await api.search("Wann fährt das Schiff ab?", namespace="english")
    assert all(one["score"] <= RRF_MOST for one in found["passages"])


async def test_a_query_in_that_language_goes_by_its_words(api: Api, mixed: str) -> None:
    first, *others = (await api.search("Wann verkaufen die Bauern Äpfel?", namespace=mixed))["passages"]
    assert (first["uri"], first["ranks"]["keyword"]) == ("markt.md", 1)
    assert first["score"] >= 1 / (1 + MOST_DENSE), "by scores: the keyword leg's best has all of its weight"
    by_meaning = [one["score"] for one in others if "keyword" not in one["ranks"]]
    assert by_meaning
    assert max(by_meaning) <= MOST_DENSE / (1 + MOST_DENSE)


async def test_a_query_in_the_embedders_language_goes_as_ever(api: Api, mixed: str) -> None:
    found = (await api.search("when does the ship leave the harbour", namespace=mixed))["passages"]
    assert found[0]["uri"] == "port.md"
    assert found[0]["score"] == pytest.approx(RRF_MOST)
