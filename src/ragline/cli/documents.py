"""`ragline documents`: list, show, why, retry, redrive, delete; a document is named by its id or its uri."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.failures import Refused, SomeFailed, WrongUsage
from ragline.cli.options import InNamespace, json_object
from ragline.cli.session import Session, command
from ragline.types import State

if TYPE_CHECKING:
    from ragline.cli.connection import Connection

One = Annotated[str, typer.Argument(metavar="DOCUMENT", help="Its id or its uri.")]
Many = Annotated[list[str] | None, typer.Argument(metavar="DOCUMENT...", help="Their ids or uris.")]
ID = re.compile(r"[0-9a-f]{24}")

documents = typer.Typer(
    name="documents", help="List, inspect, retry, re-drive and delete documents.", no_args_is_help=True
)


@documents.command("list")
@command(warm=False)
async def list_documents(
    session: Session,
    namespace: InNamespace = "default",
    state: Annotated[State | None, typer.Option("--state", help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
) -> None:
    """List documents, by id."""
    from ragline.cli.watch import listed

    # one more than asked for tells whether there are more
    pages = listed(session.server, namespace, state=state.value if state else None, most=limit + 1)
    found = [document async for document in pages]
    if session.screen.as_json:
        return session.screen.data({"documents": found[:limit], "more": len(found) > limit})
    columns = ("id", "uri", "state", "chunks", "updated", "reason")
    session.screen.table(
        columns,
        [[*(one[name] for name in columns[:4]), _when(one["updated_at"]), one["reason"]] for one in found[:limit]],
    )
    if len(found) > limit:
        session.screen.note(f"There are more than {limit}; --limit shows more.")
    return None


@documents.command()
@command(warm=False)
async def show(session: Session, document: One, namespace: InNamespace = "default") -> None:
    """Show what is known of a document."""
    found = await find(session.server, namespace, document)
    if session.screen.as_json:
        return session.screen.data(found)
    return session.screen.facts(_facts(found))


@documents.command()
@command(warm=False)
async def why(session: Session, document: One, namespace: InNamespace = "default") -> None:
    """Tell a document's whole story: each change, each attempt, and what happens next."""
    id = (await find(session.server, namespace, document))["id"]
    found = await session.server.get("v1", "namespaces", namespace, "documents", id, "why")
    screen = session.screen
    if screen.as_json:
        return screen.data(found)
    screen.line(f"{found['uri']} is {found['state']}" + (f": {found['reason']}" if found["reason"] else "."))
    when = f" ({_when(found['next_at'])})" if found["next_at"] else ""
    screen.line(f"Next: {found['next']}{when}")
    screen.line()
    columns = ("at", "revision", "attempt", "event", "took", "detail")
    rows = [
        (_when(e["at"]), e["revision"], e["attempt"] or "", e["event"], _took(e["took_s"]), e["detail"])
        for e in found["history"]
    ]
    return screen.table(columns, rows)


@documents.command()
@command(warm=False)
async def retry(
    session: Session,
    document: Many = None,
    namespace: InNamespace = "default",
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until they are done.")] = True,
) -> None:
    """Parse documents again, from the bytes as they arrived."""
    from ragline.cli.progress import progress
    from ragline.cli.watch import listed, settle

    if bool(document) == failed:
        raise WrongUsage("Which documents?", next_step="Name them by id or uri, or say --failed for all that failed.")
    if failed:
        ids = [one["id"] async for one in listed(session.server, namespace, state="failed")]
    else:
        ids = [(await find(session.server, namespace, name))["id"] for name in document or []]
    ours: dict[str, tuple[str, int]] = {}
    for id in ids:
        again = await session.server.post("v1", "namespaces", namespace, "documents", id, "retry")
        ours[id] = (again["uri"], again["revision"])
    troubles = []
    if wait:
        with progress(session.screen, "Parsing again") as show_progress:
            troubles = await settle(session.server, namespace, ours, show_progress)
    if session.screen.as_json:
        told = [{"id": trouble.id, "uri": trouble.uri, "reason": trouble.reason} for trouble in troubles]
        session.screen.data({"retried": list(ours), "failed": told})
    else:
        lost = sum(trouble.id in ours for trouble in troubles)  # others lie inside one of them
        session.screen.line(f"{len(ours) - lost} of {len(ours)} {'indexed' if wait else 'accepted'}.")
        if troubles:
            session.screen.table(("document", "why"), [(trouble.uri, trouble.reason) for trouble in troubles])
    if troubles:
        raise SomeFailed


@documents.command()
@command(warm=False)
async def redrive(session: Session, namespace: InNamespace = "default") -> None:
    """Drive again exactly the documents that are stale, and say of each what was done. Repeating it is harmless."""
    found = await session.server.post("v1", "namespaces", namespace, "redrive")
    if session.screen.as_json:
        return session.screen.data(found)
    if not found["documents"]:
        return session.screen.line(f"No document of {namespace} is stale.")
    rows = [(one["uri"], one["why"], _when(one["since"]), one["done"]) for one in found["documents"]]
    return session.screen.table(("document", "stale by", "since", "done"), rows)


@documents.command()
@command(warm=False)
async def delete(
    session: Session,
    document: Many = None,
    namespace: InNamespace = "default",
    filters: Annotated[str | None, typer.Option("--filter", help="All whose metadata matches (JSON).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --filter: only say how many.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --filter: do not ask.")] = False,
) -> None:
    """Delete documents; they are not served from this moment on."""
    server, screen = session.server, session.screen
    if bool(document) == bool(filters):
        raise WrongUsage("Which documents?", next_step="Name them by id or uri, or say --filter JSON.")
    if filters:
        json_object(filters, "--filter")
        path = ("v1", "namespaces", namespace, "documents")
        found = await server.delete(*path, filters=filters, dry_run="true")
        if not dry_run:
            confirm(f"Delete {_counted(found)} of {namespace}?", yes=yes)
            found = await server.delete(*path, filters=filters)
        if screen.as_json:
            return screen.data(found)
        return screen.line(f"{_counted(found)} {'would be ' if dry_run else ''}deleted.")
    gone = []
    for name in document or []:
        id = (await find(server, namespace, name))["id"]
        gone.append(await server.delete("v1", "namespaces", namespace, "documents", id))
    if screen.as_json:
        return screen.data({"deleted": gone})
    inside = sum(one["inside"] for one in gone)
    return screen.line(f"{len(gone)} deleted{f', and {inside} inside' if inside else ''}.")


def _counted(found: dict[str, Any]) -> str:
    count, inside = len(found["deleted"]), found["inside"]
    return f"{count} document{'s' * (count != 1)}" + (f" ({inside} of them inside others)" if inside else "")


def confirm(question: str, *, yes: bool) -> None:
    """Raises WrongUsage: nobody is there to ask.  typer.Abort: the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUsage(f"{question} Nobody is there to ask.", next_step="Say --yes to do it.")
    typer.confirm(question, abort=True, err=True)


async def find(server: Connection, namespace: str, name: str) -> dict[str, Any]:
    """By id, else by uri. Raises Refused: there is none."""
    path = ("v1", "namespaces", namespace, "documents")
    missing: Refused | None = None
    if ID.fullmatch(name):
        try:
            return dict(await server.get(*path, name))
        except Refused as refused:
            if refused.http_status != 404:
                raise
            missing = refused
    page = await server.get(*path, uri=name)
    if page["documents"]:
        return dict(page["documents"][0])
    detail = f"There is no document {name!r} in namespace {namespace!r}."
    next_step = f"`ragline documents list --namespace {namespace}` shows what there is."
    raise missing or Refused(
        {"type": "about:blank#NotFound", "detail": detail, "next_step": next_step}, http_status=404
    )


def _facts(one: dict[str, Any]) -> list[tuple[str, object]]:
    served = (
        "not yet"
        if one["live"] is None
        else "its newest content"
        if one["live"] == one["content"]
        else "an older content"
    )
    return [
        ("id", one["id"]),
        ("uri", one["uri"]),
        ("title", one["title"]),
        ("state", one["state"]),
        ("reason", one["reason"]),
        ("served", served),
        ("chunks", one["chunks"]),
        ("progress", _progress(one.get("progress"))),
        ("language", one["language"]),
        ("type", one["media_type"]),
        ("size", f"{one['size']} bytes"),
        ("groups", ", ".join(one["groups"]) or "everyone"),
        *((f"metadata.{name}", value) for name, value in one["metadata"].items()),
        ("revision", one["revision"]),
        ("received", _when(one["received_at"])),
        ("updated", _when(one["updated_at"])),
    ]


def _progress(work: dict[str, Any] | None) -> str | None:
    if work is None:
        return None
    far = "" if work["total"] is None else f", {work['done']} of {work['total']} chunks"
    return f"{work['stage']}{far}; attempt {work['attempt']}, begun {_when(work['begun_at'])}"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _took(took_s: float | None) -> str:
    return "" if took_s is None else f"{took_s:.2f} s"
