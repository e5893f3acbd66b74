"""`ragline evaluate`: how good the ranking, and the answers, are on a collection with known ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.progress import progress
from ragline.cli.records import read_records
from ragline.cli.session import Session, command
from ragline.errors import InvalidRequest

if TYPE_CHECKING:
    from ragline.cli.screen import Screen
    from ragline.cli.sources import Item, Trouble
    from ragline.evaluation import Interval, Query

UNTOUCHED = ("indexed", "received", "chunked")
"""States of a document that need not be sent again when its bytes are the same."""


@command(makes_folder=True)
async def evaluate(
    session: Session,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="With corpus.jsonl, and queries.jsonl and qrels/*.tsv (as BEIR has them) or questions.jsonl.",
        ),
    ],
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Corpus to put it in; default: eval- and the folder's name.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many queries, evenly spread over the file.")
    ] = None,
    answers: Annotated[
        bool, typer.Option("--answers", help="Generate and judge answers too (questions only).")
    ] = False,
) -> None:
    """Measure the ranking on a collection with judgments: keyword, dense and hybrid, with 95 % bootstrap intervals."""
    judged = (folder / "queries.jsonl").exists()
    if judged and answers:
        raise InvalidRequest(
            f"{folder} has judged documents, not answers.", next_step="Leave --answers out.", field="folder"
        )
    queries = questions_of(folder, limit)
    name = namespace or namespace_of(folder)
    troubles = await ingest_corpus(session, folder / "corpus.jsonl", name)
    scores = await _search(session, name, queries, judged=judged)
    if answers:
        scores["answers"] = await _answer(session, name, queries)
    _show(session, name, queries, scores, troubles)


def questions_of(folder: Path, limit: int | None) -> list[Query]:
    """Those of a BEIR folder, or of `questions.jsonl`. Raises InvalidRequest."""
    from ragline.evaluation import load_judged, load_questions, spread

    judged = (folder / "queries.jsonl").exists()
    return spread(load_judged(folder) if judged else load_questions(folder / "questions.jsonl"), limit)


async def ingest_corpus(session: Session, corpus: Path, namespace: str) -> list[Trouble]:
    """Upload what the namespace does not hold with the same bytes, and wait until all is settled."""
    from ragline.cli.upload import Tally, Uploader
    from ragline.cli.watch import listed, settle

    server, tally = session.server, Tally()
    await server.put("v1", "namespaces", namespace)
    held = {
        document["uri"]: document["sha256"]
        async for document in listed(server, namespace)
        if document["state"] in UNTOUCHED
    }
    with progress(session.screen, "Sending the corpus"):
        await Uploader(server, namespace, [], tally).send(_missing(corpus, held, tally.troubles))
    with progress(session.screen, "Indexing") as show:
        return tally.troubles + await settle(server, namespace, tally.accepted, show)


def _missing(corpus: Path, held: Mapping[str, str], troubles: list[Trouble]) -> Iterator[Item]:
    """Raises InvalidRequest: there is no corpus."""
    try:
        with corpus.open("rb") as lines:
            for item in read_records(lines, corpus.name, {}, taken=set(), troubled=troubles.append):
                assert item.data is not None
                if held.get(item.uri) != hashlib.sha256(item.data).hexdigest():
                    yield item
    except OSError as error:
        raise InvalidRequest(
            f"{corpus}: {error.strerror}.",
            next_step="Name a folder with corpus.jsonl and queries.jsonl or questions.jsonl.",
            field="folder",
        ) from error


async def _search(
    session: Session, namespace: str, queries: Sequence[Query], *, judged: bool
) -> dict[str, dict[str, list[float]]]:
    """Leg → figure → a value a query."""
    from ragline.cli.trial import LEGS, hit_scores, ranking_scores, search_all

    asked = [query for query in queries if query.answerable and (query.grades or query.answers)]
    score = ranking_scores if judged else hit_scores
    with progress(session.screen, "Searching") as show:
        return {leg: score(await search_all(session.server, namespace, asked, leg, show)) for leg in LEGS}


async def _answer(session: Session, namespace: str, queries: Sequence[Query]) -> dict[str, list[float]]:
    from ragline.cli.trial import answer_all, answer_scores

    with progress(session.screen, "Answering") as show:
        return answer_scores(await answer_all(session.server, namespace, queries, show))


def _show(
    session: Session, namespace: str, queries: Sequence[Query], scores: Mapping[str, Mapping[str, Sequence[float]]],
    troubles: Sequence[Trouble],
) -> None:  # fmt: skip
    from ragline.cli.trial import intervals
    from ragline.evaluation import paired_bootstrap

    screen = session.screen
    found = {name: intervals(values) for name, values in scores.items()}
    answers = found.pop("answers", {})
    first = next(iter(found["hybrid"]), "")
    gains = {
        leg: paired_bootstrap(scores["hybrid"][first], scores[leg][first]) for leg in ("keyword", "dense") if first
    }
    if screen.as_json:
        return screen.data(
            {
                "namespace": namespace, "queries": len(queries), "legs": plain(found), "answers": plain(answers),
                "gains": {"of": first, "over": plain(gains)}, "failed": [asdict(trouble) for trouble in troubles],
            }
        )  # fmt: skip
    screen.line(f"{len(queries)} queries on namespace {namespace}; means with 95 % bootstrap intervals.")
    columns = list(found["hybrid"])
    screen.table(("", *columns), [(leg, *(written(by.get(name)) for name in columns)) for leg, by in found.items()])
    for leg, gain in gains.items():
        screen.line(f"hybrid − {leg}, {first}: {written(gain, signed=True)}")
    if answers:
        screen.line()
        screen.table(("answers", "", "of"), [(name, written(one), one.n) for name, one in answers.items()])
    return note_troubles(screen, troubles)


def note_troubles(screen: Screen, troubles: Sequence[Trouble]) -> None:
    """What is not in the index cannot be found, so figures mean less."""
    if troubles:
        examples = ", ".join(f"{trouble.uri}: {trouble.reason}" for trouble in troubles[:3])
        screen.note(f"{len(troubles)} documents are not in the index: {examples}")


def written(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return "–"
    form = "+.3f" if signed else ".3f"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def plain(value: Any) -> Any:
    """Intervals as JSON objects, at any depth."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return {name: round(one, 5) for name, one in asdict(value).items()}


def namespace_of(folder: Path) -> str:
    """A valid name: lower-case letters, digits, - and _."""
    return ("eval-" + re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().name.lower()))[:63]
