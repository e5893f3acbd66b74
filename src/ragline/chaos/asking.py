"""Jobs that are asked for while an experiment runs, each with a webhook, and what became of every one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import aiohttp

from ragline.chaos.target import CouldNotRun, Target

SETTLED_WITHIN_S, LOOK_S = 120.0, 1.0
"""How long jobs may take to end once the load has ended, and how often that is looked at."""

PAGE = 200
"""Jobs in one page of a list; the most that the API gives."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`waiting`: accepted, and not done when the fault ended. `refused`: not accepted, in words. `lost`: accepted and not
    done in the end, in words. `undelivered`: done, and the receiver was never told. `replayed`: deliveries that were dead, and
    sent again."""

    accepted: int
    waiting: int
    refused: tuple[str, ...]
    lost: tuple[str, ...]
    undelivered: int
    replayed: int


class Asking:
    """`rate` jobs a second about what `queries` say, whose ends `receiver` is told of; `told`: the jobs that it was told of."""

    def __init__(
        self, target: Target, namespace: str, *, rate: float, queries: Iterator[str], receiver: str,
        told: Callable[[], Collection[str]],
    ) -> None:  # fmt: skip
        self._target, self._namespace, self._rate = target, namespace, rate
        self._queries, self._receiver, self._told = queries, receiver, told
        self._accepted: list[str] = []
        self._refused: list[str] = []

    async def run(self) -> None:
        """Until cancelled."""
        async with self._target.session() as session:
            while True:
                body = {"query": next(self._queries), "namespace": self._namespace, "webhook": self._receiver}
                try:
                    answer = await self._target.ask(session, "POST", "/v1/queries", json=body)
                    self._accepted.append(answer["job_id"])
                except CouldNotRun as error:
                    self._refused.append(error.message)
                await asyncio.sleep(1 / self._rate)

    async def waiting(self) -> int:
        """Accepted, and not done by now, when the fault ends."""
        mine = set(self._accepted)
        async with self._target.session() as session:
            states = await self._states(session, mine)
        return sum(states.get(id) != "done" for id in mine)

    async def settled(self, waiting: int) -> Asked:
        """When every accepted job has ended and its receiver knows, or after a while. What is dead is sent again first.
        `waiting`: how many were, when the fault ended."""
        loop = asyncio.get_running_loop()
        until, replayed = loop.time() + SETTLED_WITHIN_S, 0
        mine = set(self._accepted)
        async with self._target.session() as session:
            while True:
                states = await self._states(session, mine)
                replayed += await self._replay(session, mine)
                done = {id for id in mine if states.get(id) == "done"}
                untold = done - set(self._told())
                if (done == mine and not untold) or loop.time() > until:
                    break
                await asyncio.sleep(LOOK_S)
        lost = tuple(f"{id}: {states.get(id, 'gone')}" for id in self._accepted if id not in done)
        return Asked(len(mine), waiting, tuple(self._refused), lost, len(untold), replayed)

    async def _states(self, session: aiohttp.ClientSession, mine: Collection[str]) -> dict[str, str]:
        """Job → its state, of those that are there, `mine` at least."""
        found: dict[str, str] = {}
        before: str | None = ""
        while before is not None and not found.keys() >= set(mine):
            params = {"limit": str(PAGE), **({"before": before} if before else {})}
            page = await self._target.ask(session, "GET", "/v1/jobs", params=params)
            found |= {one["job_id"]: one["state"] for one in page["jobs"]}
            before = page["next"]
        return found

    async def _replay(self, session: aiohttp.ClientSession, mine: Collection[str]) -> int:
        page = await self._target.ask(
            session, "GET", "/v1/webhooks/deliveries", params={"state": "dead", "limit": str(PAGE)}
        )
        dead = [one for one in page["deliveries"] if one["job_id"] in mine]
        for one in dead:
            await self._target.ask(session, "POST", f"/v1/webhooks/deliveries/{one['id']}/replay")
        return len(dead)
