"""`ragline jobs`: list, show, watch, cancel, retry the questions that are answered later."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from ragline.cli.ask import sources
from ragline.cli.failures import NotReachable, SomeFailed
from ragline.cli.session import Session, command

jobs = typer.Typer(
    name="jobs",
    help="Questions that are answered later (`ragline ask --async`): yours, by your key.",
    no_args_is_help=True,
)

TRIES = 8
"""Times in a row that a stream may break off without a new event before `watch` gives up."""


class StateName(StrEnum):
    QUEUED = "queued"
    RETRIEVING = "retrieving"
    GENERATING = "generating"
    DONE = "done"
    FAILED = "failed"


Id = Annotated[str, typer.Argument(metavar="ID", help="As `ask --async` and `jobs list` show it.")]


@jobs.command("list")
@command(warm=False)
async def list_jobs(
    session: Session,
    state: Annotated[StateName | None, typer.Option("--state", help="Only these.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200)] = 50,
    before: Annotated[str | None, typer.Option("--before", help="Older than this job: the next page.")] = None,
) -> None:
    """List jobs, newest first."""
    found = await session.server.get("v1", "jobs", state=state.value if state else None, limit=limit, before=before)
    if session.screen.as_json:
        return session.screen.data(found)
    rows = [(j["job_id"], j["state"], _at(j["created_at"]), j["namespace"], j["query"]) for j in found["jobs"]]
    session.screen.table(("id", "state", "accepted", "namespace", "question"), rows)
    if found["next"]:
        session.screen.note(f"There are more: --before {found['next']}")
    return None


@jobs.command()
@command(warm=False)
async def show(session: Session, id: Id) -> None:
    """Show where a job stands, and its answer."""
    return _show(session, await session.server.get("v1", "jobs", id))


@jobs.command()
@command()
async def watch(session: Session, id: Id) -> None:
    """Follow a job until it has ended; the connection may break off, and nothing is shown twice."""
    screen, after, shown, left = session.screen, 0, False, TRIES
    while left:
        left -= 1
        try:
            async with aclosing(session.server.follow("v1", "jobs", id, "events", after=after)) as events:
                async for number, name, data in events:
                    after, left = number, TRIES
                    if screen.as_json:
                        screen.data({"id": number, "event": name, "data": data})
                    else:
                        shown = _tell(session, name, data, shown=shown)
                    if name == "failed":
                        raise SomeFailed
                    if name == "done":
                        return
        except NotReachable:
            if not left:
                raise
        await asyncio.sleep(0.5 if left < TRIES - 1 else 0.0)
    raise NotReachable(
        f"{session.server.name} broke off {TRIES} times without a new event of job {id}.",
        next_step=f"Look at it with `ragline jobs show {id}`, and at the server's log.",
    )


@jobs.command()
@command(warm=False)
async def cancel(session: Session, id: Id) -> None:
    """End a job; whoever is at it stops."""
    return _show(session, await session.server.delete("v1", "jobs", id))


@jobs.command()
@command(warm=False)
async def retry(
    session: Session,
    id: Id,
    deadline: Annotated[float | None, typer.Option("--deadline", help="Seconds until it must be answered.")] = None,
) -> None:
    """Begin a failed job again."""
    job = await session.server.post("v1", "jobs", id, "retry", body={"deadline_s": deadline})
    return session.screen.data(job) if session.screen.as_json else session.screen.line(f"Job {id} is {job['state']}.")


def _show(session: Session, job: dict[str, Any]) -> None:
    screen = session.screen
    if screen.as_json:
        return screen.data(job)
    screen.facts(
        [
            ("job", job["job_id"]), ("state", job["state"]), ("question", job["query"]), ("namespace", job["namespace"]),
            ("accepted", _at(job["created_at"])), ("deadline", _at(job["deadline_at"])),
            ("ended", _at(job["finished_at"])), ("webhook", job["webhook"]), ("attempts", job["attempt"]),
            ("retries", job["retries"] or None),
        ]
    )  # fmt: skip
    if error := job["error"]:
        screen.facts([("failed", f"{error['reason']}: {error['detail']}"), ("next", error["next_step"])])
    if answer := job["answer"]:
        screen.line()
        screen.line(answer["answer"])
        sources(screen, answer)
    return None


def _tell(session: Session, name: str, data: dict[str, Any], *, shown: bool) -> bool:
    """Show one event. Whether text of the answer stands on the terminal."""
    screen = session.screen
    match name:
        case "token" if screen.terminal:  # a pipe gets the answer whole: nothing in it is ever taken back
            screen.piece(data["text"])
            return True
        case "token":
            return False
        case "restarted":
            if shown:
                screen.line("\n")
            screen.note(f"— what was shown does not count: {data['reason']}; once more —")
            return False
        case "passages":
            screen.note(f"passages: {len(data['passages'])}")
        case "done":
            screen.line("" if shown else data["answer"])
            sources(screen, data)
        case "failed":
            screen.note(f"failed: {data['reason']}: {data['detail']}\nnext: {data['next_step']}")
        case _:
            screen.note(name)
    return shown


def _at(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
