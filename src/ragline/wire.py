"""Passages and answers as users get them, in JSON: the routes, the streams, the events of a job and its webhook write the same.

Built by hand, because a search response is the hot path.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ragline.types import Answer, Passage, Retrieved


def retrieved_out(retrieved: Retrieved) -> dict[str, Any]:
    """As `api.models.SearchOut`."""
    return {
        "passages": [passage_out(passage) for passage in retrieved.passages],
        "degraded": list(retrieved.degraded),
        "epoch": retrieved.epoch,
        "sequence": retrieved.sequence,
        "cached": retrieved.cached,
        "timings_ms": dict(retrieved.timings_ms),
    }


def passage_out(passage: Passage) -> dict[str, Any]:
    hit, chunk = passage.hit, passage.hit.chunk
    out = {
        "n": passage.n,
        "document": chunk.document,
        "uri": hit.uri,
        "title": hit.title,
        "chunk": chunk.id,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "headings": list(chunk.headings),
        "score": hit.score,
        "scale": hit.scale,
        "ranks": dict(hit.ranks),
    }
    if chunk.page is not None:
        out["page"] = chunk.page
    return out


def answer_out(answer: Answer) -> dict[str, Any]:
    """As `api.models.AnswerOut`."""
    return {
        "answer": answer.text,
        "citations": list(answer.citations),
        "passages": [passage_out(passage) for passage in answer.retrieved.passages],
        "generator": answer.generator,
        "grounded": answer.grounded,
        "degraded": list(answer.degraded),
        "cached": answer.cached,
        "usage": asdict(answer.usage),
        "timings_ms": dict(answer.timings_ms),
    }
