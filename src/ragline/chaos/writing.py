"""Documents that are uploaded while an experiment runs, and what became of every one of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp

from ragline.chaos.target import Target, documents_path

EVERY_S = 0.25
"""Between two uploads."""

PAGE_LINES = 40
"""Of a page: more than a passage holds."""

PATIENCE_S = 30.0
"""Of one upload, beyond the fault's length: one that hangs may be accepted when it is over."""

REMOVED_AT_ONCE = 8

SETTLED_WITHIN_S, LOOK_S = 120.0, 0.5
"""How long what was accepted may take to be live once the load has ended, and how often that is looked at."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One upload. Units: `at_s` seconds from the load's start. `id`: of the document, which was accepted; empty: it was not.

    said: why not, with what to do next; empty though it was not accepted: nothing was said.
    """

    at_s: float
    status: int
    id: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """`waiting`: accepted, and not live when the fault ended; None: nobody looked. `lost`: not live in the end, in words.
    `failed`: had ended so when the fault ended, and were driven again."""

    sent: tuple[Sent, ...]
    waiting: int | None
    lost: tuple[str, ...]
    failed: int = 0

    def between(self, from_s: float, to_s: float) -> list[Sent]:
        return [one for one in self.sent if from_s <= one.at_s < to_s]


class Writing:
    """Uploads to `namespace`, one after the other: documents of its own of so many `pages`, whose names begin with `name`, or
    those of `served` over and over, each time with another line.

    elapsed_s:  of the load beside it.
    for_s:      the fault's length.
    redrives:   what has failed is driven again in the end, as Alertmanager does it.
    """

    def __init__(
        self, target: Target, namespace: str, *, name: str, elapsed_s: Callable[[], float],
        for_s: float = 0.0, pages: int = 1, served: Mapping[str, str] | None = None, redrives: bool = False,
    ) -> None:  # fmt: skip
        self._target, self._namespace, self._name, self._elapsed_s = target, namespace, name, elapsed_s
        self._within_s = for_s + PATIENCE_S
        self._pages, self._served, self._redrives = pages, list((served or {}).items()), redrives
        self._sent: list[Sent] = []
        self._failed: int | None = None
        """How many had when the fault ended; None: it goes on, or nobody asks."""

    async def run(self) -> None:
        """Until cancelled, or, where it redrives, until the fault ends: else new versions would be live before."""
        async with self._target.session() as session:
            while self._failed is None:
                self._sent.append(await self._send(session, len(self._sent)))
                await asyncio.sleep(EVERY_S)

    async def waiting(self) -> int:
        """Accepted, and not live by now, when the fault ends."""
        left = await self._not_live()
        if self._redrives:
            self._failed = sum(" failed " in one for one in left)
        return len(left)

    async def settled(self, waiting: int | None) -> Written:
        """When all that was accepted is live, or after a while. `waiting`: how many were not, when the fault ended; None: nobody
        looked."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLED_WITHIN_S
        while (left := await self._not_live()) and loop.time() < until:
            if self._redrives:
                await self._redrive()
            await asyncio.sleep(LOOK_S)
        return Written(tuple(self._sent), waiting, tuple(left), self._failed or 0)

    async def remove(self) -> None:
        """What was new goes, and the next experiment finds what this one has found: what it makes stale is no smaller share."""
        if self._served:
            return
        places = asyncio.Semaphore(REMOVED_AT_ONCE)
        async with self._target.session() as session:

            async def one(id: str) -> None:
                async with places:
                    await self._target.ask(session, "DELETE", f"{documents_path(self._namespace)}/{quote(id, safe='')}")

            await asyncio.gather(*map(one, {sent.id for sent in self._sent if sent.id}))

    async def _redrive(self) -> None:
        async with self._target.session() as session:
            await self._target.ask(session, "POST", f"/v1/namespaces/{quote(self._namespace, safe='')}/redrive")

    def _next(self, n: int) -> tuple[str, str]:
        """Name and text of the upload that comes now."""
        if self._served:
            name, text = self._served[n % len(self._served)]
            return name, f"{text} This was looked through {n} times for {self._name}."
        text = f"Ledger {n} of {self._name}.\n\nEntry {n} of {self._name} was written in the year {1000 + n}."
        more = (
            f"\n\nPage {page} of ledger {n}. " + f"What page {page} says is long. " * PAGE_LINES
            for page in range(2, self._pages + 1)
        )
        return f"{self._name}-{n}.txt", text + "".join(more)

    async def _send(self, session: aiohttp.ClientSession, n: int) -> Sent:
        at_s = self._elapsed_s()
        form = aiohttp.FormData()
        name, text = self._next(n)
        form.add_field("file", text.encode(), filename=name, content_type="text/plain")
        try:
            async with (
                asyncio.timeout(self._within_s),
                session.post(self._target.url + documents_path(self._namespace), data=form) as response,
            ):
                body, status = await response.json(content_type=None), response.status
        except (aiohttp.ClientError, OSError, TimeoutError, json.JSONDecodeError):
            return Sent(at_s, 0)
        one = body["documents"][0] if "documents" in body else body
        if status < 300 and "id" in one:
            return Sent(at_s, status, one["id"])
        words = [str(one.get(name) or "") for name in ("detail", "next_step")]
        return Sent(at_s, one.get("status", status), said=" ".join(words) if all(words) else "")

    async def _not_live(self) -> list[str]:
        accepted = {one.id for one in self._sent if one.id}
        live, told = set[str](), dict[str, str]()
        cursor: str | None = ""
        async with self._target.session() as session:
            while cursor is not None:
                params = {"limit": "1000", "cursor": cursor}
                page = await self._target.ask(session, "GET", documents_path(self._namespace), params=params)
                for one in page["documents"]:
                    told[one["id"]] = f"{one['uri']}: {one['state']} {one.get('reason') or ''}".strip()
                    live |= {one["id"]} if one["state"] == "indexed" else set()
                cursor = page["next"]
        return [told.get(id, f"{id}: gone") for id in sorted(accepted - live)]
