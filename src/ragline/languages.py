"""Which language a text is in, and whether the embedder knows it (docs/adr/0009).

The ingest path asks for documents, the query path for queries of namespaces that hold documents in other languages: there
the dense leg, whose vectors mean little, gets less weight. CPU only, 1 ms a document, 0.15 ms a query; run it off the loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from ragline.types import Fusion, Space

KNOWN: Mapping[str, frozenset[str]] = {"all-MiniLM-L6-v2": frozenset({"en"})}
"""Model → what it was trained on (ISO 639-1). Of others we know nothing, and take it that they know every language."""

SAMPLE = 500
"""Characters of a document that are looked at, at its beginning, its middle and its end: a cover page may be in another one."""

LEAST_LETTERS = 40
"""A document with fewer letters is in no language that could be told: codes, numbers, names."""

LEAST_SURE = 0.5
"""Of a document's language: with it, none of 1,740 English texts was called another's, and none of 720 others was missed."""

MOST_DENSE = 0.2
"""Weight of the dense leg beside a keyword leg of 1, for a query in a language that the embedder does not know."""


def known_to(space: Space, told: Sequence[str]) -> frozenset[str] | None:
    """The languages that the embedder knows; None: all, or nobody knows. `told`: what the settings say, if anything."""
    return frozenset(told) if told else KNOWN.get(space.model.rsplit("/", 1)[-1])


def of_document(text: str) -> str | None:
    """ISO 639-1; None where it cannot be told."""
    middle = max(SAMPLE, len(text) // 2)
    parts = (text[:SAMPLE], text[middle : middle + SAMPLE], text[max(middle + SAMPLE, len(text) - SAMPLE) :])
    sample = "\n".join(part for part in parts if part)
    if sum(map(str.isalpha, sample)) < LEAST_LETTERS:
        return None
    language, sure = _identifier().classify(sample)
    return str(language) if sure >= LEAST_SURE else None


def of_query(text: str) -> str:
    """The likeliest: a query is too short to be sure of."""
    return str(_identifier().classify(text)[0])


def weighed(fusion: Fusion) -> Fusion:
    """`fusion` for a query that the embedder does not understand: by scores, the dense one a fifth of the other at most.

    Not by ranks: a leg that is wrong throughout still has a first rank, and moves the other's (docs/adr/0009).
    """
    keyword, dense = fusion.weights.get("keyword", 1.0), fusion.weights.get("dense", 1.0)
    if not keyword:  # an owner who wants the dense leg alone gets it
        return fusion
    return Fusion("convex", {"keyword": keyword, "dense": min(dense, MOST_DENSE * keyword)})


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # half a second, and only where a language matters

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
