"""`ragline ingest`: find, upload, watch, and say what failed and why; with --sync, follow a folder or a URL."""

from __future__ import annotations

import glob
import io
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.failures import Refused, SomeFailed, WrongUsage
from ragline.cli.options import InNamespace, json_object
from ragline.cli.records import read_records
from ragline.cli.session import Session, command
from ragline.cli.sources import STDIN, Item, Trouble, find, from_files, from_stdin, is_url, open_item

if TYPE_CHECKING:
    from ragline.cli.connection import Connection
    from ragline.cli.sync import Synced
    from ragline.cli.upload import Tally

MOST_SHOWN = 50
"""Failures listed at the end."""


@command(makes_folder=True, warm=False)
async def ingest(
    session: Session,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Folders, globs, files, URLs, or - for stdin.")],
    namespace: InNamespace = "default",
    records: Annotated[
        bool, typer.Option("--records", help="Each JSONL line is a document: _id, title, text.")
    ] = False,
    group: Annotated[list[str] | None, typer.Option("--group", help="Who may read; repeat. None: everyone.")] = None,
    metadata: Annotated[str | None, typer.Option("--metadata", help="JSON object, for every document.")] = None,
    uri: Annotated[str | None, typer.Option("--uri", help="Name of the document that comes by stdin.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until all is indexed, or only accepted.")] = True,
    sync: Annotated[bool, typer.Option("--sync", help="Follow PATH: what vanished from it is deleted.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="As --sync, and go on with every change until Ctrl-C.")] = False,
    source: Annotated[
        str | None, typer.Option("--source", help="With --sync: its name; default: this machine and the path, or the URL.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --sync: delete without a question, however many.")] = False,
) -> None:  # fmt: skip
    """Add documents: upload them, watch them being indexed, and list what failed and why.

    A document's uri is its path below the folder that was given. Ingesting it again replaces it; unchanged ones cost nothing.
    With --sync an unchanged file is not even read, and what vanished is deleted (a question comes before more than 10 %).
    """
    from ragline.cli.upload import Tally, Uploader

    words = json_object(metadata, "--metadata")
    if sync or watch:
        place = _followed(paths, records=records, uri=uri, watch=watch)
        return await _follow(session, place, source, namespace, group or [], words, yes=yes, wait=wait, watch=watch)
    if source or yes:
        raise WrongUsage("--source and --yes go with --sync.", next_step="Say --sync, or leave them out.")
    start, tally = time.perf_counter(), Tally()
    sources = _sources(paths, records=records, uri=uri, metadata=words, tally=tally)
    created = await _make_namespace(session, namespace)
    uploader = Uploader(session.server, namespace, group or [], tally)
    from ragline.cli.delivery import deliver

    lost = await deliver(session, namespace, sources.items, uploader, tally, total=sources.total, wait=wait)
    tally.troubles.extend(lost)
    now = await session.server.get("v1", "namespaces", namespace)
    _summary(session, now, tally, took_s=time.perf_counter() - start, created=created, wait=wait)
    if tally.troubles:
        raise SomeFailed
    return None


def _followed(paths: list[str], *, records: bool, uri: str | None, watch: bool) -> str:
    """Raises WrongUsage."""
    if len(paths) != 1 or STDIN in paths or records or uri:
        raise WrongUsage(
            "--sync and --watch follow one folder or one URL, file by file.",
            next_step="Give that alone: neither `-`, nor --records, nor --uri.",
        )
    if glob.has_magic(paths[0]) and not is_url(paths[0]) and not os.path.lexists(paths[0]):
        raise WrongUsage("A pattern is not followed.", next_step="Give the folder that holds what it matches.")
    if watch and is_url(paths[0]):
        raise WrongUsage(
            f"{paths[0].partition('://')[0]}:// tells no changes.",
            next_step="Run --sync from time to time, as by cron.",
        )
    return paths[0]


async def _follow(
    session: Session, place: str, name: str | None, namespace: str, groups: list[str], metadata: dict[str, Any], *,
    yes: bool, wait: bool, watch: bool,
) -> None:  # fmt: skip
    from ragline.cli.sync import following, sync

    start = time.perf_counter()
    what = following(place, name, namespace=namespace, groups=groups, metadata=metadata, yes=yes, wait=wait)
    created = await _make_namespace(session, namespace)
    if watch:
        from ragline.cli.following import follow

        done = await follow(session, what)
    else:
        done = await sync(session, what)
    now = await session.server.get("v1", "namespaces", namespace)
    took_s = time.perf_counter() - start
    _summary(session, now, done.tally, took_s=took_s, created=created, wait=wait, synced=done, source=what.source.name)
    if done.tally.troubles:
        raise SomeFailed


@dataclass(frozen=True, slots=True)
class _Sources:
    """`total`: how many, None while it is not known."""

    items: Iterator[Item]
    total: int | None


def _sources(paths: list[str], *, records: bool, uri: str | None, metadata: dict[str, Any], tally: Tally) -> _Sources:
    """Raises WrongUsage."""
    piped = STDIN in paths
    if piped and len(paths) > 1:
        raise WrongUsage("`-` stands beside other paths.", next_step="Ingest standard input by itself.")
    if piped and not records and not uri:
        raise WrongUsage("Standard input has no name.", next_step="Give it one with --uri, such as --uri notes.md.")
    if uri and (records or not piped):
        raise WrongUsage("--uri names what comes by stdin.", next_step="Leave it out, or give `-` as PATH.")
    if piped and not records:
        return _Sources(from_stdin(str(uri), metadata), 1)
    files = [] if piped else find(paths, troubles=tally.troubles, ending=".jsonl" if records else "")
    if not records:
        return _Sources(from_files(files, metadata), len(files))

    def lines() -> Iterator[Item]:
        taken: set[str] = set()
        trouble = tally.troubles.append
        if piped:
            yield from read_records(sys.stdin.buffer, "stdin", metadata, taken=taken, troubled=trouble)
        for file in files:
            try:
                content = open_item(next(from_files([file], {}))).content
                with io.BytesIO(content) if isinstance(content, bytes) else content as opened:
                    yield from read_records(opened, file.uri, metadata, taken=taken, troubled=trouble)
            except OSError as error:
                trouble(Trouble(file.uri, f"cannot be read: {error.strerror or error}"))

    return _Sources(lines(), None)


async def _make_namespace(session: Session, name: str) -> bool:
    """Whether it was made now."""
    server: Connection = session.server
    try:
        await server.get("v1", "namespaces", name)
    except Refused as refused:
        if refused.http_status != 404:
            raise
        await server.put("v1", "namespaces", name)
        session.screen.note(f"Namespace {name} is new: created.")
        return True
    return False


def _summary(
    session: Session, now: dict[str, Any], tally: Tally, *, took_s: float, created: bool, wait: bool,
    synced: Synced | None = None, source: str = "",
) -> None:  # fmt: skip
    screen, failed = session.screen, tally.troubles
    lost = sum(trouble.id in tally.accepted for trouble in failed)
    done, of = len(tally.accepted) - lost, len(tally.accepted) + sum(trouble.id is None for trouble in failed)
    if screen.as_json:
        unchanged = tally.unchanged + (synced.unchanged if synced else 0)
        more = {"source": source, "deleted": synced.deleted, "kept": synced.kept} if synced else {}
        return screen.data(
            {
                "namespace": now["name"], "created": created, "indexed" if wait else "accepted": done,
                "inside": tally.inside, "unchanged": unchanged, **more, "failed": [asdict(trouble) for trouble in failed],
                "sequence": tally.sequence or now["sequence"], "documents": now["documents"],
                "chunks": now.get("chunks"), "took_s": round(took_s, 3), "unknown_languages": _unknown(now),
            }
        )  # fmt: skip
    verb = "Indexed" if wait else "Accepted"
    known = f", {tally.unchanged} of them unchanged" if tally.unchanged else ""
    if within := tally.inside + tally.inside_failed:
        known += f", and {tally.inside}{f' of {within}' if tally.inside_failed else ''} inside"
    if synced:
        same, gone = synced.unchanged - synced.failed, synced.deleted
        words = f"{verb} {done} new or changed document{'s' * (done != 1)}{known}; {same} unchanged, {gone} deleted"
        screen.line(f"{words}; in {took_s:.1f} s.")
    else:
        screen.line(f"{verb} {done} of {of} document{'s' * (of != 1)}{known}{',' * bool(known)} in {took_s:.1f} s.")
    held = sum(count for state, count in now["documents"].items() if state != "deleted")
    screen.line(
        f"Namespace {now['name']} holds {held} documents, {now.get('chunks')} chunks; its sequence is {now['sequence']}."
    )
    if unknown := _unknown(now):
        names = ", ".join(f"{count} in {name}" for name, count in unknown.items())
        screen.note(
            f"The embedder does not know the language of {sum(unknown.values())} of them ({names}): they are found by their "
            "words, hardly by their meaning. Set an embedder that knows it (embedder.url), then `ragline reindex`."
        )
    if not wait and session.server.local:
        screen.note("They are indexed once `ragline up` runs, or by the next command that works on this folder.")
    if not failed:
        return None
    screen.line(f"{len(failed)} failed:")
    screen.table(("document", "why"), [(trouble.uri, trouble.reason) for trouble in failed[:MOST_SHOWN]])
    if len(failed) > MOST_SHOWN:
        screen.line(f"… and {len(failed) - MOST_SHOWN} more; --json lists them all.")
    if any(trouble.id for trouble in failed):
        screen.note(f"Their whole story: ragline documents why DOCUMENT --namespace {now['name']}")
    return None


def _unknown(now: dict[str, Any]) -> dict[str, int]:
    """Language → documents, of those that the embedder does not know."""
    known = now.get("embedder_languages")
    return {name: count for name, count in now.get("languages", {}).items() if known is not None and name not in known}
