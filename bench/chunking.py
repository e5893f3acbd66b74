"""Which chunks find the most that matters for the same number of tokens read?

The study behind docs/adr/0010-chunk-size.md: every way of cutting is scored by what its passages hold when
the reader (a generator, mostly) gets a fixed budget of tokens, so that large chunks do not win by being large. Both legs
and RRF, exact vectors, the parts of the product without the service around them.

    python -m bench.chunking --data FOLDER [--budget 800] [--only NAME …] [--most-chars N] [--json FILE]

FOLDER holds chunking-eval (spans of characters are gold), rag-multi-corpus (texts are), hotpotqa-100 (documents are).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.figures import Figure, show, write
from ragline.build import open_embedder
from ragline.chunking import chunk, chunk_id, search_text
from ragline.evaluation import bootstrap, paired_bootstrap
from ragline.fusion import fuse
from ragline.keywords.tantivy import TantivyKeywordIndex
from ragline.parsing import markdown
from ragline.parsing.limits import Limits
from ragline.parsing.outline import Outline
from ragline.prompting import pack
from ragline.protocols import Embedder
from ragline.remembering import RememberingEmbedder
from ragline.settings import Settings
from ragline.types import Block, Chunk, Fusion, Hit, Parsed, Passage, Record, Scope

CANDIDATES = 50
EVERYBODY = Scope()


@dataclass(frozen=True, slots=True)
class Way:
    """A way of cutting. Units: model tokens. `parent` > 0: chunks are found, the parent around them is read."""

    name: str
    size: int
    overlap: int
    context: bool = True
    parent: int = 0


WAYS = (
    Way("200 / 32", 200, 32),  # the default comes first: the others are compared with it
    Way("100 / 0", 100, 0),
    Way("100 / 16", 100, 16),
    Way("200 / 0", 200, 0),
    Way("200 / 64", 200, 64),
    Way("400 / 64", 400, 64),
    Way("200 / 32, without title and headings", 200, 32, context=False),
    Way("100 / 0, read as 200", 100, 0, parent=200),
    Way("100 / 0, read as 400", 100, 0, parent=400),
)


@dataclass(frozen=True, slots=True)
class Source:
    id: str
    title: str
    parsed: Parsed


@dataclass(frozen=True, slots=True)
class Ask:
    """A question, and what share of its gold a list of passages holds, 0 to 1."""

    question: str
    documents: frozenset[str]
    held: Callable[[Sequence[Chunk]], float]


# ── collections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def chunking_eval(folder: Path) -> tuple[list[Source], list[Ask]]:
    """Gold: spans of characters, of which the share inside the passages counts."""
    sources = [Source(line["_id"], line["title"], _plain(line["text"])) for line in _lines(folder / "corpus.jsonl")]
    asks = []
    for line in _lines(folder / "questions.jsonl"):
        (document,) = line["gold_docs"]
        gold = {i for span in line["spans"] for i in range(span["start_index"], span["end_index"])}

        def held(passages: Sequence[Chunk], document: str = document, gold: set[int] = gold) -> float:
            read = {i for one in passages if one.document == document for i in range(one.start, one.end)}
            return len(gold & read) / len(gold)

        asks.append(Ask(line["question"], frozenset([document]), held))
    return sources, asks


def multi_corpus(folder: Path) -> tuple[list[Source], list[Ask]]:
    """Gold: texts, not always verbatim, of whose runs of three words the share inside the passages counts."""
    sources = [Source(line["_id"], line["title"], _markdown(line["text"])) for line in _lines(folder / "corpus.jsonl")]
    asks = []
    for line in _lines(folder / "questions.jsonl"):
        gold = {run for one in line["evidence"] for run in _runs(one["text"])}
        if not line["gold_docs"] or not gold:
            continue
        documents = frozenset(line["gold_docs"])

        def held(
            passages: Sequence[Chunk], documents: frozenset[str] = documents, gold: set[tuple[str, ...]] = gold
        ) -> float:
            read = {run for one in passages if one.document in documents for run in _runs(one.text)}
            return len(gold & read) / len(gold)

        asks.append(Ask(line["question"], documents, held))
    return sources, asks


def hotpot(folder: Path) -> tuple[list[Source], list[Ask]]:
    """Gold: the two documents that an answer takes, of which the share that was read counts."""
    sources = [Source(line["_id"], line["title"], _plain(line["text"])) for line in _lines(folder / "corpus.jsonl")]
    asks = []
    for line in _lines(folder / "questions.jsonl"):
        gold = frozenset(line["gold_docs"])

        def held(passages: Sequence[Chunk], gold: frozenset[str] = gold) -> float:
            return len(gold & {one.document for one in passages}) / len(gold)

        asks.append(Ask(line["question"], gold, held))
    return sources, asks


COLLECTIONS: Mapping[str, Callable[[Path], tuple[list[Source], list[Ask]]]] = {
    "chunking-eval": chunking_eval,
    "rag-multi-corpus": multi_corpus,
    "hotpotqa-100": hotpot,
}


def _plain(text: str) -> Parsed:
    return Parsed(text, (Block(0, len(text)),))


def _markdown(text: str) -> Parsed:
    out = Outline(Limits())
    markdown.parse(text.encode(), out)
    return out.parsed()


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def _lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ── one way over one collection ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Score:
    held: list[float]
    chunks: int


async def score(sources: Sequence[Source], asks: Sequence[Ask], way: Way, embedder: Embedder, budget: int) -> Score:
    chunks, texts, titles = _cut(sources, way.size, way.overlap, embedder, context=way.context)
    parents = _parents(chunks, _cut(sources, way.parent, 0, embedder)[0]) if way.parent else {}
    vectors = await embedder.embed(texts, purpose="document")
    with tempfile.TemporaryDirectory() as folder:
        keywords = TantivyKeywordIndex(Path(folder))
        await keywords.create("study", fields={})
        rows = zip(chunks, titles, texts, strict=True)
        records = [Record(one, one.document, title, frozenset(), {}, text) for one, title, text in rows]
        await keywords.upsert("study", records)

        async def ranked(question: str) -> list[Hit]:
            vector = (await embedder.embed([question], purpose="query"))[0]
            scores = vectors @ vector
            best = np.argsort(-scores, kind="stable")[:CANDIDATES]
            dense = [Hit(chunks[i], chunks[i].document, titles[i], float(scores[i]), "cosine") for i in best]
            words = await keywords.search("study", question, top_k=CANDIDATES, scope=EVERYBODY)
            return fuse({"keyword": words, "dense": dense}, Fusion(), top_k=CANDIDATES)

        held = [await _held(ask, ranked, parents, embedder, budget) for ask in asks]
        await keywords.aclose()
    return Score(held, len(chunks))


async def _held(
    ask: Ask,
    ranked: Callable[[str], Awaitable[list[Hit]]],
    parents: Mapping[str, Chunk],
    embedder: Embedder,
    budget: int,
) -> float:
    """What is packed for the generator, as the service packs it: in order, overlaps once, what fits."""
    read: dict[str, Hit] = {}
    for hit in await ranked(ask.question):
        passage = parents.get(hit.chunk.id, hit.chunk)
        read.setdefault(passage.id, replace(hit, chunk=passage))
    passages = [Passage(n, hit) for n, hit in enumerate(read.values(), start=1)]
    packed = pack(passages, lambda text: len(embedder.token_spans(text)), budget_tokens=budget)
    return ask.held([one.hit.chunk for one in packed])


def _cut(
    sources: Sequence[Source], size: int, overlap: int, embedder: Embedder, *, context: bool = True
) -> tuple[list[Chunk], list[str], list[str]]:
    chunks, texts, titles = [], [], []
    for source in sources:
        spans = chunk(source.parsed, embedder.token_spans, chunk_tokens=size, overlap_tokens=overlap)
        for n, span in enumerate(spans):
            text = source.parsed.text[span.start : span.end]
            name = chunk_id("study", source.id, size, n)
            chunks.append(Chunk(name, source.id, size, n, text, span.start, span.end, headings=span.headings))
            texts.append(search_text(source.title, span.headings, text) if context else text)
            titles.append(source.title)
    return chunks, texts, titles


def _parents(children: Sequence[Chunk], parents: Sequence[Chunk]) -> dict[str, Chunk]:
    """For each child the parent that holds most of it."""
    of_document: dict[str, list[Chunk]] = {}
    for parent in parents:
        of_document.setdefault(parent.document, []).append(parent)
    return {
        child.id: max(
            of_document[child.document],
            key=lambda parent: min(parent.end, child.end) - max(parent.start, child.start),
        )
        for child in children
    }


async def study(data: Path, ways: Sequence[Way], budget: int, most_chars: int) -> dict[str, list[Figure]]:
    results: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory() as folder:
        embedder = RememberingEmbedder(await open_embedder(Settings(data_dir=Path(folder))))
        for name, load in COLLECTIONS.items():
            sources, asks = load(data / name)
            small = {one.id for one in sources if not most_chars or len(one.parsed.text) <= most_chars}
            sources = [one for one in sources if one.id in small]
            asks = [one for one in asks if one.documents <= small]
            figures, baseline = [], None
            for way in ways:
                got = await score(sources, asks, way, embedder, budget)
                interval = bootstrap(got.held)
                note = f"[{interval.low:.3f}, {interval.high:.3f}], {got.chunks:,} chunks"
                if baseline is None:
                    baseline = got.held
                else:
                    change = paired_bootstrap(got.held, baseline)
                    note += f"; against the first {change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
                figures.append(Figure(way.name, interval.mean, note=note))
                print(f"{name}: {way.name}: {interval.mean:.3f} {note}", file=sys.stderr, flush=True)
            results[f"{name}, {budget} tokens"] = figures
        await embedder.aclose()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of collections")
    parser.add_argument("--budget", type=int, default=800, help="tokens read")
    parser.add_argument("--most-chars", type=int, default=0, help="leave out longer documents and their questions")
    parser.add_argument("--only", nargs="*", default=(), help="ways whose name begins so; the first is always there")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    only = tuple(given.only)
    ways = [way for way in WAYS if way is WAYS[0] or not only or way.name.startswith(only)]
    results = asyncio.run(study(given.data, ways, given.budget, given.most_chars))
    show(results, {})
    if given.json:
        write(given.json, results, {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
