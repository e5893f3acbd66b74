"""`ragline ask` and `ragline search`."""

from __future__ import annotations

import textwrap
from contextlib import aclosing
from enum import StrEnum
from typing import Annotated, Any

import typer

from ragline.cli.failures import NotReachable, Refused, WrongUsage
from ragline.cli.options import InNamespace, json_object
from ragline.cli.screen import Screen
from ragline.cli.session import Session, command

SHOWN_CHARS = 400
"""Of a passage's text, in `search`; `--full` shows all."""

Query = Annotated[list[str], typer.Argument(metavar="QUERY...", help="The question; its words need no quotes.")]
Filter = Annotated[
    str | None, typer.Option("--filter", help='JSON: {"field": value | [values] | {"gte": …, "lte": …}}.')
]


class Leg(StrEnum):
    KEYWORD = "keyword"
    DENSE = "dense"


@command()
async def ask(
    session: Session,
    query: Query,
    namespace: InNamespace = "default",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Passages the answer may use.")] = 8,
    filters: Filter = None,
    min_sequence: Annotated[int | None, typer.Option(help="Wait until this change is visible.")] = None,
    later: Annotated[bool, typer.Option("--async", help="Accept it as a job, and end at once: see `ragline jobs`.")] = False,
    deadline: Annotated[float | None, typer.Option("--deadline", help="With --async: seconds until it must be answered.")] = None,
    webhook: Annotated[str | None, typer.Option("--webhook", help="With --async: https address told of the end.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="With --async: the same key is the same job for a day.")
    ] = None,
) -> None:  # fmt: skip
    """Answer a question from the documents, and show the sources."""
    screen = session.screen
    only_later = {"--deadline": deadline, "--webhook": webhook, "--idempotency-key": idempotency_key}
    if not later and (given := [name for name, value in only_later.items() if value is not None]):
        raise WrongUsage(f"{', '.join(given)}: only with --async.", next_step="Add --async, or leave it out.")
    body = {
        "query": " ".join(query), "namespace": namespace, "top_k": top_k, "filters": json_object(filters, "--filter"),
        "min_sequence": min_sequence,
    }  # fmt: skip
    if later:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else None
        job = await session.server.post(
            "v1", "queries", body={**body, "deadline_s": deadline, "webhook": webhook}, headers=headers
        )
        if session.server.local:
            screen.note("The workers end with this command: `ragline up`, or the next command, goes on with the job.")
        return screen.data(job) if screen.as_json else screen.line(job["job_id"])
    if not screen.terminal:  # a pipe gets the answer whole: nothing in it is ever taken back
        answer = await session.server.post("v1", "answers", body=body)
        if screen.as_json:
            return screen.data(answer)
        screen.line(answer["answer"])
    else:
        answer = await _streamed(session, body)
    sources(screen, answer)
    return None


@command()
async def search(
    session: Session,
    query: Query,
    namespace: InNamespace = "default",
    top_k: Annotated[int, typer.Option("--top-k", "-k", help="Passages returned.")] = 10,
    filters: Filter = None,
    leg: Annotated[list[Leg] | None, typer.Option("--leg", help="Search by this leg only; both by default.")] = None,
    distinct: Annotated[bool, typer.Option("--distinct", help="The best passage of each document only.")] = False,
    min_sequence: Annotated[int | None, typer.Option(help="Wait until this change is visible.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Whole passages.")] = False,
) -> None:
    """Find passages, best first."""
    screen = session.screen
    body = {
        "query": " ".join(query), "namespace": namespace, "top_k": top_k, "filters": json_object(filters, "--filter"),
        "legs": [one.value for one in leg or Leg], "distinct": "document" if distinct else "chunk",
        "min_sequence": min_sequence,
    }  # fmt: skip
    found = await session.server.post("v1", "search", body=body)
    if screen.as_json:
        return screen.data(found)
    for passage in found["passages"]:
        ranks = ", ".join(f"{name} {rank}" for name, rank in passage["ranks"].items())
        screen.line(f"[{passage['n']}] {_place(passage)}  ({ranks})")
        text = passage["text"] if full else textwrap.shorten(passage["text"], SHOWN_CHARS, placeholder=" …")
        screen.line(textwrap.indent(text, "    "))
        screen.line()
    if not found["passages"]:
        screen.note("Nothing found.")
    _degraded(screen, found)
    return None


async def _streamed(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    """The answer, shown while it comes about."""
    shown = False
    async with aclosing(session.server.events("v1", "answers", body={**body, "stream": True})) as events:
        async for name, data in events:
            match name:
                case "token":
                    session.screen.piece(data["text"])
                    shown = True
                case "restarted":
                    session.screen.line("\n" if shown else "")
                    session.screen.note(f"— that does not count: {data['reason']}; once more —")
                    shown = False
                case "error":
                    session.screen.line()
                    raise Refused(data, http_status=data.get("status", 500))
                case "done":
                    session.screen.line("" if shown else data["answer"])
                    return dict(data)
    raise NotReachable(
        f"{session.server.name} broke off in the middle of the answer.",
        next_step="Ask again; look at the server's log.",
    )


def sources(screen: Screen, answer: dict[str, Any]) -> None:
    cited = [passage for passage in answer["passages"] if passage["n"] in answer["citations"]]
    if cited:
        screen.line()
        screen.line("Sources")
        for passage in cited:
            screen.line(f"  [{passage['n']}] {_place(passage)}")
    _degraded(screen, answer)


def _place(passage: dict[str, Any]) -> str:
    """Title, uri, page and headings, what is known of them and not said twice."""
    title, uri = passage["title"], passage["uri"]
    parts = [title, uri] if title and title != uri else [uri]
    if passage.get("page"):
        parts.append(f"page {passage['page']}")
    headings = [heading for heading in passage["headings"] if heading != title]
    if headings:
        parts.append(" › ".join(headings))
    return " · ".join(parts)


def _degraded(screen: Screen, answer: dict[str, Any]) -> None:
    if answer["degraded"]:
        screen.note(f"degraded: {', '.join(answer['degraded'])}")
