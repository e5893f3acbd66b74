"""`ragline tune`: the fusion, the candidates and, when asked, the chunk size that rank one's own questions best."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.failures import WrongUsage
from ragline.cli.progress import progress
from ragline.cli.session import Session, command

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ragline.cli.sources import Trouble
    from ragline.evaluation import Query
    from ragline.tuning import Choice, Ranked, Verdict

OVERLAP = 0.16
"""Of a chunk that is tried: as the default sizes have it, 32 of 200 tokens."""


@command(makes_folder=True)
async def tune(
    session: Session,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="As for `evaluate`; without corpus.jsonl, the namespace holds the documents."
        ),
    ],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Corpus to tune; default: eval- and the folder's name.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many questions.")] = None,
    chunks: Annotated[
        list[int] | None, typer.Option("--chunks", min=32, help="Try this chunk size too, by ingesting anew; repeat.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Set what is better, if something is.")] = False,
) -> None:  # fmt: skip
    """Find settings that rank your own questions better, and say whether that is more than luck.

    Five times, what is best on four fifths of the questions is judged on the last fifth. Only a gain whose 95 % interval
    there lies above zero counts as better.
    """
    from ragline.cli.evaluate import ingest_corpus, namespace_of, questions_of
    from ragline.tuning import Choice, check_enough, choices, judge
    from ragline.types import Fusion

    corpus = folder / "corpus.jsonl"
    if not corpus.exists() and not namespace:
        raise WrongUsage(
            f"{folder} holds no corpus.jsonl.", next_step="Say which namespace holds it, with --namespace."
        )
    if chunks and not corpus.exists():
        raise WrongUsage("--chunks ingests anew.", next_step=f"Put the documents into {corpus}, or leave --chunks out.")
    queries = [query for query in questions_of(folder, limit) if query.grades]
    check_enough(len(queries))
    name = namespace or namespace_of(folder)
    troubles = await ingest_corpus(session, corpus, name) if corpus.exists() else []
    held = await session.server.get("v1", "namespaces", name)
    settings = held["settings"]
    now = Choice(Fusion(**settings["fusion"]), settings["candidates"] or held["candidates"])
    tried = choices(now)
    tables = [await _tried(session, name, queries, tried)]
    for size in chunks or []:
        sized = choices(now, chunk_tokens=[size])
        sized = [choice for choice in sized if choice.chunk_tokens]
        tables.append(await _anew(session, corpus, f"tune-{size}-{name}"[:63], size, queries, sized))
        tried += sized
    import numpy as np

    verdict = judge(np.concatenate(tables), tried)
    applied = apply and verdict.better
    if applied:
        await _apply(session, name, verdict.chosen)
    _show(session, name, now, verdict, len(tried), troubles, applied=applied)


async def _anew(
    session: Session, corpus: Path, name: str, size: int, queries: Sequence[Query], tried: Sequence[Choice]
) -> NDArray[np.float64]:
    """The corpus in chunks of `size`, in a namespace that goes again."""
    from ragline.cli.evaluate import ingest_corpus

    sizes = {"chunk_tokens": size, "overlap_tokens": int(size * OVERLAP)}
    await session.server.put("v1", "namespaces", name, body=sizes)
    try:
        await ingest_corpus(session, corpus, name)
        return await _tried(session, name, queries, tried)
    finally:
        await session.server.delete("v1", "namespaces", name)


async def _tried(
    session: Session, name: str, queries: Sequence[Query], tried: Sequence[Choice]
) -> NDArray[np.float64]:  # fmt: skip
    from ragline.cli.trial import rank_all
    from ragline.tuning import CANDIDATES, Ranked, scores

    depth = max(*CANDIDATES, tried[0].candidates)
    with progress(session.screen, f"Searching {name}") as show:
        keyword = await rank_all(session.server, name, queries, "keyword", depth, show)
        dense = await rank_all(session.server, name, queries, "dense", depth, show)
    ranked: list[Ranked] = [
        Ranked(query.grades, {"keyword": one, "dense": other})
        for query, one, other in zip(queries, keyword, dense, strict=True)
    ]
    return await asyncio.to_thread(scores, ranked, tried)


async def _apply(session: Session, name: str, chosen: Choice) -> None:
    body: dict[str, Any] = {"fusion": asdict(chosen.fusion), "candidates": chosen.candidates}
    if chosen.chunk_tokens:
        body |= {"chunk_tokens": chosen.chunk_tokens, "overlap_tokens": int(chosen.chunk_tokens * OVERLAP)}
    await session.server.patch("v1", "namespaces", name, body=body)


def _show(
    session: Session, name: str, now: Choice, verdict: Verdict, tried: int, troubles: Sequence[Trouble], *,
    applied: bool,
) -> None:  # fmt: skip
    from ragline.cli.evaluate import note_troubles, plain, written

    screen, words = session.screen, "better" if verdict.better else "no difference"
    if screen.as_json:
        return screen.data(
            {
                "namespace": name, "questions": verdict.now.n, "tried": tried, "verdict": words, "applied": applied,
                "now": asdict(now), "chosen": asdict(verdict.chosen),
                "nDCG@10": plain({"now": verdict.now, "chosen": verdict.best}), "held_out_gain": plain(verdict.held_out),
                "failed": [asdict(trouble) for trouble in troubles],
            }
        )  # fmt: skip
    screen.line(f"{verdict.now.n} questions on namespace {name}, {tried} settings; nDCG@10 with 95 % intervals.")
    note_troubles(screen, troubles)
    screen.line(f"now      {written(verdict.now)}  {now.words()}")
    screen.line(f"chosen   {written(verdict.best)}  {verdict.chosen.words()}")
    screen.line(f"gain on questions that the choice has not seen: {written(verdict.held_out, signed=True)}")
    if not verdict.better:
        return screen.line("No difference: the interval holds zero. Nothing is worth a change on these questions.")
    screen.line("Better." if applied else "Better; --apply sets it.")
    if applied and verdict.chosen.chunk_tokens:
        screen.note(f"Chunks change with the next parse: `ragline reindex --reparse -n {name}`.")
    return None
