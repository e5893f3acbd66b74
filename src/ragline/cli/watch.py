"""How far documents have come, at the price of one small request a look; exact once few are left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from ragline.cli.connection import Connection
from ragline.cli.progress import LOOK_S, Show, next_look
from ragline.cli.sources import Trouble

WAITING = ("received", "chunked")

PAGE = 1000
"""Documents in an answer."""

FEW = PAGE
"""Waiting documents of a namespace that are looked at one by one; while there are more, they are only counted.

No more than a page of each state: an archive that is parsed between two pages would be missed, and its members too.
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """`waiting`: of ours, still to be done, what lies inside them included; at most as many as are ours.

    `chunks`, `failed`: of the whole namespace.
    """

    waiting: int
    chunks: int
    failed: int


async def look(server: Connection, namespace: str, ours: Mapping[str, tuple[str, int]]) -> Standing:
    """`ours`: document id → (uri, revision)."""
    now = await server.get("v1", "namespaces", namespace)
    counts = now["documents"]
    waiting = sum(counts.get(state, 0) for state in WAITING)
    if 0 < waiting <= FEW:
        waiting = 0
        for state in WAITING:
            async for document in listed(server, namespace, state=state):
                waiting += _is_ours(document, ours)
    return Standing(min(waiting, len(ours)), now.get("chunks") or 0, counts.get("failed", 0))


async def settle(server: Connection, namespace: str, ours: Mapping[str, tuple[str, int]], show: Show) -> list[Trouble]:
    """Wait until all of `ours`, and all that lies inside them, is settled; returns what failed of it."""
    wait_s = LOOK_S[0]
    while (standing := await look(server, namespace, ours)).waiting:
        show(len(ours) - standing.waiting, len(ours), "")
        await asyncio.sleep(wait_s)
        wait_s = next_look(wait_s)
    return await failures(server, namespace, ours)


async def failures(server: Connection, namespace: str, ours: Mapping[str, tuple[str, int]]) -> list[Trouble]:
    return [
        Trouble(document["uri"], document["reason"] or "failed", document["id"])
        async for document in listed(server, namespace, state="failed")
        if _is_ours(document, ours)
    ]


async def inside(server: Connection, namespace: str, ours: Mapping[str, tuple[str, int]]) -> int:
    """How many documents that are indexed lie inside `ours`."""
    members = listed(server, namespace, state="indexed", inside=True)
    return sum([document["root"] in ours async for document in members])


def _is_ours(document: Mapping[str, Any], ours: Mapping[str, tuple[str, int]]) -> bool:
    """Also where it lies, at whatever depth, inside one of ours: members are written before their archive is done."""
    return document["id"] in ours or document["root"] in ours


async def listed(
    server: Connection, namespace: str, *, state: str | None = None, most: int | None = None, inside: bool | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Documents by id, page by page. `inside`: only files that lie in other documents, or only the others."""
    cursor, given = "", 0
    while cursor is not None:
        limit = PAGE if most is None else min(PAGE, most - given)
        if limit <= 0:
            return
        page = await server.get(
            "v1", "namespaces", namespace, "documents", state=state, cursor=cursor or None, limit=limit,
            inside=None if inside is None else str(inside).lower(),
        )  # fmt: skip
        for document in page["documents"]:
            given += 1
            yield document
        cursor = page["next"]
