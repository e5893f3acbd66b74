"""`ragline ingest --sync`: a namespace follows a folder, or a URL (docs/adr/0007).

The server keeps, beside each document that a sync brought, the version its file had. So whoever syncs keeps nothing:
what is there is compared with what the server says, only what differs is read and sent, and what has vanished is
deleted last. A run that was killed is taken up by the next one where it stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragline.cli.delivery import deliver
from ragline.cli.documents import confirm
from ragline.cli.session import Session
from ragline.cli.sources import Found, Trouble, find, from_files, is_url
from ragline.cli.upload import Source, Tally, Uploader
from ragline.cli.watch import listed
from ragline.uris import clean

if TYPE_CHECKING:
    from ragline.cli.connection import Connection

MOST_VANISHED = 0.1
"""Share of a source's documents that may be deleted without a question: more is often a disk that is not mounted."""

PAGE = 5_000
"""Documents asked for at a time."""

MOST_DELETED = 500
"""Documents deleted in a request."""


MOST_LEFT_OUT = 10_000
"""Documents that one call can leave out of those that count as fresh; with more of them none does."""


@dataclass(frozen=True, slots=True)
class Following:
    """What one sync follows, and how. `yes`: delete without a question, however many."""

    place: str
    namespace: str
    source: Source
    groups: tuple[str, ...]
    metadata: Mapping[str, Any]
    yes: bool
    wait: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A document that an earlier sync of the source brought, as the server has it."""

    id: str
    uri: str
    version: str
    state: str
    reason: str | None
    current: bool


@dataclass(slots=True)
class Plan:
    """What is to be done, of what was `known`.

    `unchanged`: nothing, `same`: their ids; `failed`: of those, what failed, and will again; `unseen`: cannot be told.
    """

    send: list[Found] = field(default_factory=list)
    unchanged: int = 0
    same: set[str] = field(default_factory=set)
    failed: list[Trouble] = field(default_factory=list)
    vanished: list[Held] = field(default_factory=list)
    unseen: list[Held] = field(default_factory=list)
    known: Mapping[str, Held] = field(default_factory=dict)
    of: int = 0


@dataclass(slots=True)
class Synced:
    """What one sync has done.

    `failed`: of the unchanged, what failed before; `kept`: vanished, but too many to be deleted without a question.
    """

    tally: Tally
    unchanged: int
    failed: int = 0
    deleted: int = 0
    kept: int = 0


def following(
    place: str, name: str | None, *, namespace: str, groups: Sequence[str], metadata: Mapping[str, Any], yes: bool,
    wait: bool,
) -> Following:  # fmt: skip
    """`name`: of the source; None: this machine's folder, or the URL."""
    words = json.dumps([sorted(groups), metadata], sort_keys=True)
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    source = Source(name or _name(place), digest)
    return Following(place, namespace, source, tuple(groups), metadata, yes, wait)


async def sync(session: Session, what: Following, *, ask: bool = True) -> Synced:
    """Bring the namespace to what the source holds now. Without `ask`, too many that vanished are kept, not asked about.

    Raises:  WrongUsage: the place is not there, or nobody can be asked; nothing was changed.  Refused, NotReachable.
    """
    server, tally = session.server, Tally()
    found = await asyncio.to_thread(find, [what.place], troubles=tally.troubles)
    plan = compare(found, await _held(server, what), tally.troubles, what.source)
    many = len(plan.vanished) > MOST_VANISHED * plan.of and not what.yes
    if many and ask:
        confirm(
            f"{len(plan.vanished)} of the {plan.of} documents of {what.source.name} have vanished, such as "
            f"{plan.vanished[0].uri}. Delete them from {what.namespace}?",
            yes=False,
        )
    done = Synced(tally, plan.unchanged, len(plan.failed), kept=len(plan.vanished) if many and not ask else 0)
    if plan.send:
        uploader = Uploader(server, what.namespace, what.groups, tally, source=what.source)
        items = from_files(plan.send, what.metadata)
        lost = await deliver(session, what.namespace, items, uploader, tally, total=len(plan.send), wait=what.wait)
        tally.troubles.extend(lost)
    tally.troubles.extend([*plan.failed, *(await _failed_inside(server, what, plan))])
    if not done.kept:
        done.deleted = await _delete(server, what, plan.vanished, tally)
    await _verify(server, what, plan, tally, kept=done.kept > 0)
    return done


def compare(found: Sequence[Found], held: Sequence[Held], troubles: Sequence[Trouble], source: Source) -> Plan:
    """What to send, what to leave, what to delete. What lies where something could not be read has not vanished."""
    known = {one.uri: one for one in held}
    plan = Plan(known=dict(known), of=len(held))
    for file in found:
        one = known.pop(clean(file.uri), None)
        if one is None or not one.version or one.version != source.version(file.version) or not one.current:
            plan.send.append(file)
            continue
        plan.unchanged += 1
        plan.same.add(one.id)
        if one.state == "failed":
            plan.failed.append(Trouble(one.uri, one.reason or "failed", one.id))
    hidden = {clean(trouble.uri) for trouble in troubles}
    for one in known.values():
        parts = one.uri.split("/")
        above = {".", *("/".join(parts[: n + 1]) for n in range(len(parts)))}
        (plan.vanished if hidden.isdisjoint(above) else plan.unseen).append(one)
    return plan


async def _failed_inside(server: Connection, what: Following, plan: Plan) -> list[Trouble]:
    """What failed inside the unchanged, and will again."""
    if not plan.same:
        return []
    failed = listed(server, what.namespace, state="failed", inside=True)
    return [Trouble(one["uri"], one["reason"], one["id"]) async for one in failed if one["root"] in plan.same]


async def _held(server: Connection, what: Following) -> list[Held]:
    held: list[Held] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await server.get(
            "v1", "namespaces", what.namespace, "sources", "documents", source=what.source.name,
            cursor=cursor or None, limit=PAGE,
        )  # fmt: skip
        held += (Held(**one) for one in page["documents"])
        cursor = page["next"]
    return held


async def _verify(server: Connection, what: Following, plan: Plan, tally: Tally, *, kept: bool) -> None:
    """Note that the rest is as the source has it: all but what was not seen, not taken, or is gone and kept."""
    refused = {clean(trouble.uri) for trouble in tally.troubles if trouble.id is None}
    left = {one.id for one in (*plan.unseen, *(plan.vanished if kept else ()))} | {
        one.id for uri, one in plan.known.items() if uri in refused
    }
    if len(left) <= MOST_LEFT_OUT:
        body = {"source": what.source.name, "leave_out": sorted(left)}
        await server.post("v1", "namespaces", what.namespace, "sources", "verified", body=body)


async def _delete(server: Connection, what: Following, gone: Sequence[Held], tally: Tally) -> int:
    deleted = 0
    for start in range(0, len(gone), MOST_DELETED):
        ids = [one.id for one in gone[start : start + MOST_DELETED]]
        body = {"source": what.source.name, "documents": ids}
        answer = await server.post("v1", "namespaces", what.namespace, "sources", "delete", body=body)
        deleted += len(answer["deleted"])
        tally.sequence = max(tally.sequence, answer["sequence"])
    return deleted


def _name(place: str) -> str:
    if is_url(place):
        from ragline.cli.remote import shown

        return shown(place)
    return f"{socket.gethostname()}:{Path(place).resolve()}"
