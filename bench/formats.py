"""Do answers depend on the format? The same documents in five formats, each in a namespace of its own, the same questions.

For each format: how often a document that holds the answer is among the first five, and how often the first document is
the one that Markdown's namespace puts first.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, Ground, Skipped
from bench.ground import ingest, running
from ragline.system import System
from ragline.types import SearchRequest, Upload

FORMATS = ("md", "docx", "html", "pdf", "pptx")
"""Markdown first: it is what the questions were written for, and what the others are compared with."""

FIRST = 5
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    wanted: frozenset[str]
    """Names of documents that hold the answer, as `_name` makes them."""


async def run(ground: Ground) -> list[Figure]:
    folder = ground.data / "rag-multi-corpus" if ground.data else None
    if folder is None or not (folder / "files").is_dir():
        raise Skipped("needs `rag-multi-corpus` with its `files` in the folder that --data names")
    questions = _questions(folder / "questions.jsonl")
    found: dict[str, list[list[str]]] = {}
    failed: dict[str, int] = {}
    async with running(ground.work / "formats") as system:
        for ending in FORMATS:
            await ingest(system, f"formats-{ending}", _uploads(folder / "files", ending))
            counts = await system.documents.counts(f"formats-{ending}")
            failed[ending] = sum(count for state, count in counts.items() if state == "failed")
            found[ending] = await _search(system, f"formats-{ending}", questions)
    return [figure for ending in FORMATS for figure in _figures(ending, found, failed, questions)]


def _figures(
    ending: str, found: Mapping[str, Sequence[Sequence[str]]], failed: Mapping[str, int], questions: Sequence[Question]
) -> list[Figure]:
    hits = [bool(one.wanted.intersection(names)) for one, names in zip(questions, found[ending], strict=True)]
    alike = [mine[:1] == other[:1] for mine, other in zip(found[ending], found[FORMATS[0]], strict=True)]
    note = f"{len(questions)} questions"
    return [
        Figure(f"{ending}: a right document among the first {FIRST}", sum(hits) / len(hits), note=note),
        Figure(f"{ending}: the same first document as {FORMATS[0]}", sum(alike) / len(alike), note=note),
        Figure(f"{ending}: documents that failed", failed[ending], at_most=0),
    ]


def _questions(path: Path) -> list[Question]:
    """Those that name a document which holds the answer."""
    lines = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return [Question(one["question"], frozenset(map(_name, one["gold_docs"]))) for one in lines if one["gold_docs"]]


def _uploads(folder: Path, ending: str) -> list[Upload]:
    paths = sorted(folder.glob(f"*/{ending}/*.{ending}"))
    return [Upload(f"{path.parts[-3]}/{path.name}", path.read_bytes()) for path in paths]


def _name(path: str) -> str:
    return path.rpartition(".")[0]


async def _search(system: System, namespace: str, questions: Sequence[Question]) -> list[list[str]]:
    """For each question the documents of the first passages, best first."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(question: Question) -> list[str]:
        request = SearchRequest(question.text, namespace, frozenset(), top_k=FIRST, distinct="document")
        async with slots:
            passages = (await system.search.search(request)).passages
        return [_name(passage.hit.uri) for passage in passages]

    return list(await asyncio.gather(*map(one, questions)))
