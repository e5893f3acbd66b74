"""What the extractive generator shows and refuses, on SQuAD 2.0: `python -m bench.extractive --data FOLDER`.

Retrieval is taken out: each question gets five passages. `own` holds the right paragraph and four others of its
article; `other` the five nearest paragraphs of other articles, where nothing answers. The articles are split in two:
weights and thresholds were chosen on `dev`, figures are of `test`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np

from bench.figures import Figure, Ground, show
from ragline.citations import is_refusal
from ragline.embedders.local import LocalEmbedder
from ragline.evaluation import bootstrap, holds
from ragline.generators.extractive import ExtractiveGenerator
from ragline.prompting import build_prompt
from ragline.protocols import Embedder
from ragline.types import Chunk, Hit, Passage

SEED = 7
PASSAGES = 5
MAX_TOKENS = 512
Half = Literal["dev", "test"]


@dataclass(frozen=True, slots=True)
class Paragraph:
    id: str
    article: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    answers: tuple[str, ...]
    paragraph: str


@dataclass(slots=True)
class Seen:
    """What came back. `hits`: the answer's string was shown.  Units: `chars` of the shown text."""

    hits: list[float] = field(default_factory=list)
    chars: list[int] = field(default_factory=list)
    refused: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


async def run(ground: Ground, *, half: Half = "test", questions: int = 1000) -> list[Figure]:
    corpus, chosen = load(ground.collection("squad2-dev"), half, questions)
    cache = ground.work / "models"
    embedder = await LocalEmbedder.load("all-MiniLM-L6-v2", source="package", cache_dir=cache)
    try:
        return figures(await ask(embedder, corpus, chosen))
    finally:
        await embedder.aclose()


def load(folder: Path, half: Half, questions: int) -> tuple[dict[str, Paragraph], list[Question]]:
    """The paragraphs, and as many answerable as unanswerable questions of one half of the articles."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
    corpus = {row["_id"]: Paragraph(row["_id"], row["title"].replace("_", " "), row["text"]) for row in rows}
    articles = sorted({paragraph.article for paragraph in corpus.values()})
    random.Random(SEED).shuffle(articles)
    middle = len(articles) // 2
    kept = set(articles[:middle] if half == "dev" else articles[middle:])
    kinds: Mapping[bool, list[Question]] = {True: [], False: []}
    for line in (folder / "questions.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if corpus[row["gold_docs"][0]].article in kept:
            kinds[bool(row["answers"])].append(Question(row["question"], tuple(row["answers"]), row["gold_docs"][0]))
    draw = random.Random(SEED)
    return corpus, [question for kind in kinds.values() for question in draw.sample(kind, questions // 2)]


async def ask(embedder: Embedder, corpus: Mapping[str, Paragraph], questions: Sequence[Question]) -> Seen:
    paragraphs = [*corpus.values()]
    vectors = await embedder.embed([f"{p.article}\n{p.text}" for p in paragraphs], purpose="document")
    generator = ExtractiveGenerator(embedder)
    seen = Seen()
    for i, question in enumerate(questions):
        article = corpus[question.paragraph].article
        near = np.argsort(-(vectors @ (await embedder.embed([question.text], purpose="query"))[0]), kind="stable")
        ranked = [paragraphs[n] for n in near]
        mates = [p.id for p in ranked if p.article == article and p.id != question.paragraph]
        own = {question.paragraph, *random.Random(i).sample(mates, min(PASSAGES - 1, len(mates)))}
        text = await answer(generator, question, [p for p in ranked if p.id in own])
        seen.refused["answerable" if question.answers else "adversarial"].append(is_refusal(text))
        if question.answers:
            seen.hits.append(holds(text, question.answers))
        if not is_refusal(text):
            seen.chars.append(len(text))
        other = [p for p in ranked if p.article != article][:PASSAGES]
        seen.refused["off topic"].append(is_refusal(await answer(generator, question, other)))
    return seen


async def answer(generator: ExtractiveGenerator, question: Question, paragraphs: Sequence[Paragraph]) -> str:
    passages = [
        Passage(n, Hit(Chunk(p.id, p.id, 1, 0, p.text, 0, len(p.text)), p.id, p.article, 1.0, "rrf"))
        for n, p in enumerate(paragraphs, start=1)
    ]
    prompt = build_prompt(question.text, passages)
    return "".join([token.text async for token in generator.generate(prompt, max_tokens=MAX_TOKENS)])


def figures(seen: Seen) -> list[Figure]:
    def share(name: str, values: Sequence[float], at_least: float | None = None) -> Figure:
        interval = bootstrap(values)
        note = f"95 % {interval.low:.3f} – {interval.high:.3f}, n {interval.n}"
        return Figure(name, round(interval.mean, 3), at_least=at_least, note=note)

    refusals = {kind: [float(refused) for refused in values] for kind, values in seen.refused.items()}
    right = [float(kind != "answerable") for kind, values in refusals.items() for refused in values if refused]
    answered = [hit for hit, refused in zip(seen.hits, refusals["answerable"], strict=True) if not refused]
    return [
        share("answer shown, of answerable questions", seen.hits, at_least=0.75),
        share("answer shown, where it answered", answered),
        share("refused, answerable (wrong)", refusals["answerable"]),
        share("refused, off topic (right)", refusals["off topic"], at_least=0.9),
        share("refused, adversarial (right)", refusals["adversarial"]),
        share("precision of a refusal", right),
        Figure("shown text", round(fmean(seen.chars)), "characters", note="mean, citations included"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of collections, with squad2-dev in it")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "ragline-bench")
    parser.add_argument("--half", choices=["dev", "test"], default="test")
    parser.add_argument("--questions", type=int, default=1000)
    given = parser.parse_args()
    data = given.data.parent if (given.data / "corpus.jsonl").exists() else given.data
    found = asyncio.run(run(Ground(data, given.work), half=given.half, questions=given.questions))
    show({f"extractive, {given.half}": found}, {})


if __name__ == "__main__":
    main()
