"""An open loop of requests: each begins when it is due, whatever became of the ones before.

A closed loop, whose callers wait for an answer before they ask again, asks least while the server is at its worst, and so
leaves out of its percentiles just what its users wait for (Tene's coordinated omission). Here latency counts from when a
request was due, also where the generator itself is late, and what could not be sent is counted, never dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Sequence
from random import Random
from typing import Any
from urllib.parse import quote

import aiohttp

from ragline.chaos.queries import Zipf
from ragline.chaos.samples import Kind, Lost, Sample, Samples
from ragline.chaos.target import CouldNotRun, Target
from ragline.chaos.writes import Write, Writes


class Load:
    """Requests to one server, for one `run` at a time.

    Units:   `rate` requests a second, all kinds together, may be set while it runs; `timeout_s` from when one was sent.
    Shares:  `writes` and `answers` of the requests, in [0, 1], together at most 1; the rest are searches. Writes go to a
             namespace of the load's own, which a run makes and deletes; the key must be an admin's.
    Queries: by `zipf` over `queries`, the first the most frequent.
    Seed:    equal seeds give equal requests at equal times, whatever the server does; what a write changes, and when it is
             acknowledged, is up to the server.
    Raises:  ValueError: no query, or numbers out of their range.
    """

    def __init__(
        self, url: str, key: str | None = None, *, namespace: str = "default", queries: Sequence[str], rate: float,
        zipf: float = 1.0, writes: float = 0.0, answers: float = 0.0, top_k: int = 10, seed: int = 0,
        timeout_s: float = 30.0, most_in_flight: int = 1000,
    ) -> None:  # fmt: skip
        if (
            rate <= 0
            or timeout_s <= 0
            or most_in_flight < 1
            or not (min(writes, answers) >= 0 and writes + answers <= 1)
        ):
            raise ValueError("rate, timeout_s and most_in_flight must be above 0, and the shares together at most 1")
        self.rate = rate
        self.left_behind = ""
        """The namespace of the load's own that could not be deleted, in words; empty: all is clean."""
        self._target = Target(url, key, timeout_s=timeout_s)
        self._namespace, self._top_k, self._seed = namespace, top_k, seed
        self._queries, self._zipf = queries, Zipf(len(queries), zipf)
        self._shares = {Kind.WRITE: writes, Kind.ANSWER: answers, Kind.SEARCH: 1 - writes - answers}
        self._timeout_s, self._most_in_flight = timeout_s, most_in_flight
        self._seen: list[Sample] = []
        self._flying: dict[float, Kind] = {}
        """What is in flight, by when it was due."""
        self._begun: float | None = None
        self._ended: float | None = None
        self._sending: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """One search, not recorded. Raises CouldNotRun: it got no good answer."""
        body = {"query": self._queries[0], "namespace": self._namespace, "top_k": self._top_k}
        async with self._target.session() as session:
            await self._target.ask(session, "POST", "/v1/search", json=body)

    async def run(self, for_s: float) -> Samples:
        """Send what is due in `for_s` seconds, which may be infinite, and wait for the answers. Cancelling it is as `stop`.

        Raises:  CouldNotRun: writes are wanted, and no namespace can be made for them.
        """
        self._seen, self._flying, self._ended, self.left_behind = [], {}, None, ""
        async with self._target.session() as session, self._own_namespace(session) as writes:
            self._begun = asyncio.get_running_loop().time()
            self._sending = asyncio.create_task(self._send(session, writes, for_s))
            try:
                await asyncio.wait((self._sending,))
            finally:
                self._sending.cancel()
                await asyncio.wait((self._sending,))
                now_s = self.elapsed_s
                self._ended = min(now_s, for_s)
                self._seen += [
                    Sample(at_s, (now_s - at_s) * 1000, 0, kind=kind, lost=Lost.STOPPED)
                    for at_s, kind in self._flying.items()
                ]
        if not self._sending.cancelled():
            self._sending.result()  # a defect of ours
        return self.samples

    def stop(self) -> None:
        """End the run now: what is in flight is given up, and counted as that."""
        if self._sending:
            self._sending.cancel()

    @property
    def in_flight(self) -> int:
        return len(self._flying)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, those of `Sample.at_s`; 0.0 before it."""
        return 0.0 if self._begun is None else asyncio.get_running_loop().time() - self._begun

    @property
    def samples(self) -> Samples:
        """What has been seen so far; in the middle of a run, without what is in flight."""
        return Samples(self._seen, for_s=self.elapsed_s if self._ended is None else self._ended)

    def since(self, from_s: float) -> Samples:
        """Those of `samples` that ended after `from_s`; costs no more the longer the run."""
        ended = bisect_left(self._seen, from_s, key=lambda one: one.at_s + one.took_ms / 1000)
        return Samples(self._seen[ended:], for_s=max(0.0, self.elapsed_s - from_s))

    async def _send(self, session: aiohttp.ClientSession, writes: Writes, for_s: float) -> None:
        kinds, weights = list(self._shares), list(self._shares.values())
        choosing, asking = Random(f"kinds:{self._seed}"), Random(f"asking:{self._seed}")
        async with asyncio.TaskGroup() as group:
            for at_s in self._arrivals():
                await asyncio.sleep(max(0.0, min(at_s, for_s) - self.elapsed_s))
                if at_s >= for_s:
                    return
                kind = choosing.choices(kinds, weights)[0]
                query = self._queries[self._zipf.draw(asking)]
                if self.in_flight >= self._most_in_flight:
                    self._seen.append(Sample(at_s, 0.0, 0, kind=kind, lost=Lost.UNSENT))
                    continue
                self._flying[at_s] = kind
                group.create_task(self._one(session, writes, at_s, kind, query))

    def _arrivals(self) -> Iterator[float]:
        """When requests are due, in seconds from the start: a Poisson process, as of many callers who do not know each other."""
        dice, at_s = Random(f"arrivals:{self._seed}"), 0.0
        while True:
            at_s += dice.expovariate(self.rate)
            yield at_s

    async def _one(self, session: aiohttp.ClientSession, writes: Writes, at_s: float, kind: Kind, query: str) -> None:
        late_s = self.elapsed_s - at_s
        write = writes.next() if kind is Kind.WRITE else None
        status, content, lost = await self._exchange(session, self._request(kind, query, writes, write))
        took_s = self.elapsed_s - at_s
        said = _said(content) if 200 <= status < 300 else {}
        if said is None:
            status, said, lost = 0, {}, Lost.BROKEN
        if write and said:
            writes.done(write, said)
        del self._flying[at_s]
        self._seen.append(
            Sample(
                at_s, took_s * 1000, status, tuple(said.get("degraded", ())), bool(said.get("cached")), kind,
                late_s * 1000, lost,
            )
        )  # fmt: skip

    async def _exchange(
        self, session: aiohttp.ClientSession, request: tuple[str, str, dict[str, Any]]
    ) -> tuple[int, bytes, Lost | None]:
        """Status and body, to its last byte, or why there is none."""
        method, path, options = request
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                session.request(method, self._target.url + path, **options) as response,
            ):
                return response.status, await response.read(), None
        except TimeoutError:
            return 0, b"", Lost.TIMEOUT
        except (aiohttp.ClientError, OSError):
            return 0, b"", Lost.BROKEN

    def _request(self, kind: Kind, query: str, writes: Writes, write: Write | None) -> tuple[str, str, dict[str, Any]]:
        if write:
            method, path, form = writes.request(write)
            return method, path, {"data": form}
        path = "/v1/answers" if kind is Kind.ANSWER else "/v1/search"
        return "POST", path, {"json": {"query": query, "namespace": self._namespace, "top_k": self._top_k}}

    @contextlib.asynccontextmanager
    async def _own_namespace(self, session: aiohttp.ClientSession) -> AsyncIterator[Writes]:
        name = f"load-{secrets.token_hex(4)}"
        writes = Writes(name, self._queries, seed=self._seed)
        if not self._shares[Kind.WRITE]:
            yield writes
            return
        path = f"/v1/namespaces/{quote(name, safe='')}"
        try:
            await self._target.ask(session, "PUT", path, json={})
            yield writes
        finally:
            try:
                await self._target.ask(session, "DELETE", path)
            except CouldNotRun as error:
                self.left_behind = f"{name}: {error.message}"


def _said(content: bytes) -> dict[str, Any] | None:
    """The JSON object that an answer is; None: it is none, so Ragline has not said it."""
    try:
        said = json.loads(content)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
