"""What `evaluate` asks a server, and what it makes of the answers: one ranking, or one answer, a query.

A degraded result says something about the machine at that moment, not about the ranking: it is asked for again, and
counts for nothing before it is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ragline.cli.connection import Connection
from ragline.cli.failures import NotReachable, Refused
from ragline.cli.progress import Show
from ragline.evaluation import Interval, Query, bootstrap, hit, holds, ndcg, recall, reciprocal_rank
from ragline.types import Chunk, Hit, LegName

LEGS: Mapping[str, Sequence[str]] = {"keyword": ["keyword"], "dense": ["dense"], "hybrid": ["keyword", "dense"]}

QUERIES_A_REQUEST = 16
"""The server takes 64, but a leg gets a quarter of a second once the other one is in: on two busy cores, more than half
of 64 queries at once came back without the dense leg, of 16 about one in thirty."""

RETRIEVAL = frozenset(LEGS["hybrid"]) | {"guard"}
"""Steps without which passages are not those that a healthy server gives."""

REQUESTS_AT_ONCE = 2
MOST_TRIES = 10

PAUSE_S = 0.1
"""Before the second try; each further one waits that much longer."""

TOP_K = 100
"""Passages asked for: Recall@100 needs as many."""

ANSWER_DEPTH = 5
"""Passages in which an answer is looked for: what a reader looks at."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Ranked:
    """`documents`: uris, best first, each once. `texts`: of the first passages."""

    query: Query
    documents: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """`refused`: the answer says that the documents do not hold it. `retrieved`: a right document was among the passages."""

    query: Query
    text: str
    refused: bool
    retrieved: bool


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def search_all(
    server: Connection, namespace: str, queries: Sequence[Query], leg: str, show: Show
) -> list[Ranked]:
    """Passages for every query, by one leg or by both. Raises Refused, NotReachable."""
    in_passages = any(query.answers or query.evidence for query in queries)
    fixed = {
        "namespace": namespace,
        "top_k": TOP_K,
        "legs": LEGS[leg],
        "distinct": "chunk" if in_passages else "document",
    }

    async def ask(batch: Sequence[Query]) -> list[Ranked]:
        try:
            body = [{"query": query.text, **fixed} for query in batch]
            results = [_whole(result) for result in (await server.post("v1", "search", body=body))["results"]]
        except Refused as refused:
            if not refused.problem.get("retryable"):
                raise
            results = [None] * len(batch)
        return [_ranked(q, result or await alone(q)) for q, result in zip(batch, results, strict=True)]

    async def alone(query: Query) -> Mapping[str, Any]:
        return await _until_whole(query, lambda: server.post("v1", "search", body={"query": query.text, **fixed}))

    batches = [queries[start : start + QUERIES_A_REQUEST] for start in range(0, len(queries), QUERIES_A_REQUEST)]
    found = await _in_turns(batches, ask, lambda done: show(done * QUERIES_A_REQUEST, len(queries), leg))
    return [one for batch in found for one in batch]


async def rank_all(
    server: Connection, namespace: str, queries: Sequence[Query], leg: LegName, depth: int, show: Show
) -> list[list[Hit]]:
    """The `depth` best chunks of one leg for every query, with the leg's own scores. Raises Refused, NotReachable."""

    async def ask(query: Query) -> list[Hit]:
        body = {"query": query.text, "namespace": namespace, "top_k": depth, "legs": [leg]}
        result = await _until_whole(query, lambda: server.post("v1", "search", body=body))
        return [_hit(passage, leg) for passage in result["passages"]]

    return await _in_turns(queries, ask, lambda done: show(done, len(queries), leg))


def _hit(passage: Mapping[str, Any], leg: str) -> Hit:
    chunk = Chunk(passage["chunk"], passage["document"], 0, 0, "", passage["start"], passage["end"])
    return Hit(chunk, passage["uri"], passage["title"], passage["score"], leg)


async def answer_all(server: Connection, namespace: str, queries: Sequence[Query], show: Show) -> list[Answered]:
    """An answer for every question. Raises Refused, NotReachable."""

    async def ask(query: Query) -> Answered:
        body = {"query": query.text, "namespace": namespace}
        answer = await _until_whole(query, lambda: server.post("v1", "answers", body=body))
        uris = [passage["uri"] for passage in answer["passages"]]
        retrieved = bool(hit(uris, query.grades, k=len(uris)))
        return Answered(query, answer["answer"], not answer["grounded"], retrieved)

    return await _in_turns(queries, ask, lambda done: show(done, len(queries), "answers"))


def _whole(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """None when a part of the retrieval was left out. A generator that was stood in for is part of what is judged."""
    return None if RETRIEVAL.intersection(result["degraded"]) else result


async def _until_whole(query: Query, ask: Callable[[], Awaitable[Any]]) -> Mapping[str, Any]:
    """Raises Refused; NotReachable: the result never was whole."""
    for attempt in range(1, MOST_TRIES + 1):
        try:
            if result := _whole(await ask()):
                return result
        except Refused as refused:
            if attempt == MOST_TRIES or not refused.problem.get("retryable"):
                raise
            await asyncio.sleep(refused.retry_after_s or 0.0)
        await asyncio.sleep(PAUSE_S * attempt)
    raise NotReachable(
        f"The server left out a step each of the {MOST_TRIES} times query {query.id} was asked: figures would mislead.",
        next_step="Look at its load, or raise query.dense_deadline_ms, query.keyword_deadline_ms and query.grace_ms.",
    )


async def _in_turns(items: Sequence[T], ask: Callable[[T], Awaitable[R]], done: Callable[[int], None]) -> list[R]:
    """`ask` for every item, a few at a time, in order."""
    results: dict[int, R] = {}
    waiting = iter(enumerate(items))

    async def work() -> None:
        for n, item in waiting:
            results[n] = await ask(item)
            done(len(results))

    workers = [asyncio.create_task(work()) for _ in range(REQUESTS_AT_ONCE)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    return [results[n] for n in range(len(items))]


def _ranked(query: Query, result: Mapping[str, Any]) -> Ranked:
    passages = result["passages"]
    documents = tuple(dict.fromkeys(passage["uri"] for passage in passages))
    return Ranked(query, documents, tuple(passage["text"] for passage in passages[:ANSWER_DEPTH]))


# ── scoring ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def ranking_scores(found: Sequence[Ranked]) -> dict[str, list[float]]:
    """The figures of a BEIR collection, a value a query."""
    pairs = [(one.documents, one.query.grades) for one in found]
    return {
        "nDCG@10": [ndcg(documents, grades, k=10) for documents, grades in pairs],
        "Recall@10": [recall(documents, grades, k=10) for documents, grades in pairs],
        "Recall@100": [recall(documents, grades, k=100) for documents, grades in pairs],
        "MRR": [reciprocal_rank(documents, grades) for documents, grades in pairs],
    }


def hit_scores(found: Sequence[Ranked]) -> dict[str, list[float]]:
    """Of questions that the corpus answers: was a right document found, was an answer, or its evidence, in a passage."""
    pairs = [(one.documents, one.query.grades) for one in found if one.query.grades]
    scores = {f"hit@{k}": [hit(documents, grades, k=k) for documents, grades in pairs] for k in (1, 5, 10)}
    scores["Recall@10"] = [recall(documents, grades, k=10) for documents, grades in pairs]
    scores["MRR"] = [reciprocal_rank(documents, grades) for documents, grades in pairs]
    for name, wanted in (("answer", [q.query.answers for q in found]), ("evidence", [q.query.evidence for q in found])):
        scores[f"{name}@{ANSWER_DEPTH}"] = [
            float(any(holds(text, strings) for text in one.texts))
            for one, strings in zip(found, wanted, strict=True)
            if strings
        ]
    return scores


def answer_scores(answered: Sequence[Answered]) -> dict[str, list[float]]:
    """How often the answer holds a reference answer, and how well refusals meet what has no answer."""
    known = [(one, float(holds(one.text, one.query.answers))) for one in answered if one.query.answers]
    return {
        "answered": [right for _, right in known],
        "answered when retrieved": [right for one, right in known if one.retrieved],
        "refusal precision": [float(not one.query.answerable) for one in answered if one.refused],
        "refusal recall": [float(one.refused) for one in answered if not one.query.answerable],
    }


def intervals(scores: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    """Of every figure that has a value."""
    return {name: bootstrap(values) for name, values in scores.items() if values}
