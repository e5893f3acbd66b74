"""Which language a text is in, and what follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ragline.languages import MOST_DENSE, known_to, of_document, of_query, weighed
from ragline.types import Fusion, Space

XQUAD = Path("../shared/data/xquad")

ENGLISH = "The harbour master writes down every ship that comes in, its cargo, and the hour at which it leaves again."
GERMAN = (
    "Der Hafenmeister schreibt jedes Schiff auf, das einläuft, seine Ladung und die Stunde, in der es wieder ablegt."
)
FRENCH = (
    "Le capitaine du port note chaque navire qui arrive, sa cargaison et l'heure à laquelle il repart vers le large."
)


def test_languages_are_told_apart() -> None:
    assert [of_document(text) for text in (ENGLISH, GERMAN, FRENCH)] == ["en", "de", "fr"]
    assert of_document("港务长记录每一艘进港的船只、所载的货物，以及它再次离港的时间。" * 3) == "zh"
    assert [of_query("Wann legt das Schiff ab?"), of_query("When does the ship leave?")] == ["de", "en"]


def test_what_holds_no_sentence_is_in_no_language() -> None:
    assert of_document("12,4;19,0;7,7\n" * 500) is None
    assert of_document("AB-12 Q7 ZX") is None
    assert of_document("") is None


def test_a_cover_page_does_not_decide() -> None:
    assert of_document(ENGLISH[:80] + "\n" + GERMAN * 40) == "de"


def test_what_the_embedder_knows() -> None:
    space = Space("sentence-transformers/all-MiniLM-L6-v2", "0" * 64, "fp32", 384, 256)
    assert known_to(space, ()) == frozenset({"en"})
    assert known_to(space, ("en", "de")) == frozenset({"en", "de"})
    assert known_to(Space("multilingual", "0" * 64, "fp32", 384, 256), ()) is None


def test_weights_for_a_query_that_the_embedder_does_not_understand() -> None:
    assert weighed(Fusion("convex", {"keyword": 0.5, "dense": 2.0})) == Fusion(
        "convex", {"keyword": 0.5, "dense": 0.5 * MOST_DENSE}
    )
    assert weighed(Fusion()) == Fusion("convex", {"keyword": 1.0, "dense": MOST_DENSE})
    assert weighed(Fusion("rrf", {"keyword": 1.0, "dense": 0.0})).weights["dense"] == 0.0
    alone = Fusion("rrf", {"keyword": 0.0, "dense": 1.0})
    assert weighed(alone) == alone


@pytest.mark.skipif(not XQUAD.is_dir(), reason="the XQuAD paragraphs are not here")
@pytest.mark.parametrize("language", ["ar", "de", "en", "zh"])
def test_paragraphs_of_wikipedia(language: str) -> None:
    """The figures of ADR 0009: no English paragraph is called another's, none of another is called English."""
    lines = (XQUAD / language / "corpus.jsonl").read_text("utf-8").splitlines()
    told = [of_document(json.loads(line)["text"]) for line in lines]
    assert {one in ("en", None) for one in told} == {language == "en"}
