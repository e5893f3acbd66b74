"""Kill, look at what was left, start again, check; as many times as asked for."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from bench.crashes.books import Books, Verdict
from bench.crashes.ledger import TEAM, Ledger
from bench.crashes.load import CLIENTS, TIMEOUT_S, Load
from bench.crashes.service import Left, UnderTest
from ragline.failpoints import POINTS

RANDOM, AT_START = "a random moment", "while it starts"

OF_REINDEX = ("namespaces.", "vectors.create", "keywords.create", "vectors.drop", "keywords.drop")
"""Points that only a re-index passes."""

TOGETHER = ("vectors.", "keywords.", "claims.claim", "documents.delete", "members.")
"""Points that are passed less often than once a document: many are written, or claimed, together."""

PATIENCE_S = {OF_REINDEX: 30.0, ("upkeep.", "contents.forget"): 12.0}
"""How long a failpoint is waited for that comes late; then the kill comes from outside."""


WHILE_LOADED_S = (0.05, 2.5)
"""After the load began, when a kill at a random moment comes."""

WHILE_STARTING_S = (0.2, 3.0)
"""After the process was begun."""

STUCK_AFTER_S = 120.0
"""What is due is stuck once nothing has moved for so long: no row, no file of either store, and no blob: the chunks and the
vectors of each document are written there. A busy machine takes longer over everything, so the whole time says little."""

SETTLED_WITHIN_S = 600.0
"""And however much moves: what is tried again and again moves for ever. Many times the longest that a busy machine has taken."""

ORPHANS_WITHIN = 180
"""Looks, a second apart, until the housekeeper has collected the orphans at the end."""

ORPHAN_GRACE_S = 60.0
"""Longer than any upload here takes from its blob to its commit; at the end the blobs are made older."""

VARIABLES = {
    "RAGLINE_LOG_LEVEL": "warning",
    "RAGLINE_INGEST__ORPHAN_GRACE_S": str(ORPHAN_GRACE_S),
    "RAGLINE_INGEST__UPKEEP_S": "5",
    "RAGLINE_INGEST__LEASE_S": "30",
    "RAGLINE_INGEST__TOMBSTONE_RETENTION_S": "30",
    "RAGLINE_QUERY__DEADLINE_MS": "1000",
    **dict.fromkeys(
        ("RAGLINE_QUERY__KEYWORD_DEADLINE_MS", "RAGLINE_QUERY__DENSE_DEADLINE_MS", "RAGLINE_QUERY__GRACE_MS"), "20000"
    ),
}
"""Retired collections go early (twice the deadline of a search), legs may be late: a busy machine is no fault here."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill. `at`: where it was asked for; `reached`: whether that failpoint was passed, else it came from outside.

    Units: seconds: `ready_s` from the next start to its first answer, `settled_s` from there until nothing was due.
    """

    at: str
    reached: bool
    left: Left
    cut_off: int
    came_through: int
    ready_s: float
    settled_s: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    kills: Sequence[Kill]
    documents: int
    editions: int
    orphans_found: int
    """Blobs without an owner before the housekeeper's last round."""
    last: Verdict
    """The books at the very end: every document searched for."""
    tally: Mapping[str, int]
    """What else was done to what is under test: words → times."""
    took_s: float


class Harness:
    """`at_first`: documents created before the first kill. `new`, `changes`: those created, and changes asked for, between
    two kills. `searched`: of those that were touched, how many are searched for after a kill. What is missing to `documents`
    after the last kill is created then."""

    def __init__(
        self, service: UnderTest, *, documents: int, at_first: int, new: int, changes: int, seed: int,
        searched: int = 24, tell: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._dice = random.Random(seed)
        self._service = service
        self._ledger = Ledger()
        self._load = Load(self._ledger, documents=documents, dice=self._dice, cuts=service.cuts)
        self._documents, self._at_first = documents, at_first
        self._new, self._changes = max(new, CLIENTS), max(changes, CLIENTS)
        self._searched = searched
        self._tell = tell
        self._keys: dict[str, str] = {}

    async def run(self, kills: int, places: Sequence[str] = (), *, within_s: float = math.inf) -> Outcome:
        """`places`: where the kills come, in this order; left out, some of all, by chance. After `within_s` no further kill
        comes, but what is missing to the number of documents is created and everything is checked."""
        begun = time.perf_counter()
        places = places or self._choose(kills)
        done: list[Kill] = []
        try:
            await self._start(places[0])
            await self._service.ready()
            await self._make_keys()
            await self._load.run(self._service.url, self._keys["admin"], new=self._at_first, changes=0)
            books = Books(self._ledger, dice=self._dice, **self._keys)
            for at, following in zip(places, (*places[1:], RANDOM), strict=True):
                if time.perf_counter() - begun > within_s:
                    break
                one = await self._kill(at, following, books)
                done.append(one)
                self._tell(
                    f"{len(done)}/{len(places)} {at}{'' if one.reached else ' (not reached)'}: {one.left.due} due, "
                    f"{one.cut_off} cut off, ready {one.ready_s:.1f} s, settled {one.settled_s:.1f} s, "
                    f"{len(self._ledger.entries)} documents, faults: {one.verdict.faults[:3] or 'none'}"
                )
            orphans, last = await self._end(books)
        finally:
            await self._service.stop()
        editions = sum(entry.editions for entry in self._ledger.entries.values())
        tally, took_s = self._service.tally, time.perf_counter() - begun
        return Outcome(done, len(self._ledger.entries), editions, orphans, last, tally, took_s)

    def _choose(self, kills: int) -> list[str]:
        """Six of ten at failpoints, each as often as the others; three at random; one while the process starts.

        Those of a re-index come first and once: it takes longer the more documents there are.
        """
        points = [point for point in POINTS if self._service.has_log or not point.startswith("log.")]
        all_places = [f"{point}.{moment}" for point in points for moment in ("before", "after")]
        self._dice.shuffle(all_places)
        early = [at for at in all_places if at.startswith(OF_REINDEX)][: kills // 5]
        others = [at for at in all_places if at not in early and not at.startswith(OF_REINDEX)]
        late = [others[n % len(others)] for n in range(round(kills * 0.6) - len(early))]
        late += [AT_START] * round(kills * 0.1)
        late += [RANDOM] * (kills - len(late) - len(early))
        self._dice.shuffle(late)
        return early + late

    async def _start(self, at: str) -> None:
        await self._service.start(failpoint="" if at in (RANDOM, AT_START) else f"{at}:{self._nth(at)}")

    async def _kill(self, at: str, following: str, books: Books) -> Kill:
        """From a service at rest, begun for `at`, to the next one at rest, begun for the `following` kill."""
        within_s = self._dice.uniform(*WHILE_LOADED_S)
        if at not in (RANDOM, AT_START):
            within_s = next((limit for parts, limit in PATIENCE_S.items() if at.startswith(parts)), 6.0)
            self._service.arm()
        reached = await self._under_load(within_s, reindex=at.startswith(OF_REINDEX) or self._dice.random() < 0.05)
        if at == AT_START:  # with what that kill has left to be taken up
            await self._service.start()
            await asyncio.sleep(self._dice.uniform(*WHILE_STARTING_S))
            await self._service.kill(starting=True)
        left, cut_off = await self._service.left(), len(self._ledger.in_flight())
        await self._start(following)
        ready_s = await self._service.ready()
        settled_s = await self._settled()
        verdict = await self._check(books, settled_s, searched=self._searched)
        reached = reached or at in (RANDOM, AT_START)
        return Kill(at, reached, left, cut_off, verdict.came_through, ready_s, settled_s, verdict)

    async def _check(self, books: Books, settled_s: float, *, searched: int | None) -> Verdict:
        verdict = await books.check(self._service.url, searched=searched)
        if (left := await self._service.left()).anything:
            verdict.stuck.append(f"{left} after {settled_s:.0f} s")
        return verdict

    def _nth(self, at: str) -> int:
        """At which call: the rare ones at their first, the others anywhere among those that a load makes."""
        if at.startswith((*OF_REINDEX, "upkeep.", "contents.forget", "documents.retry")):
            return 1
        return self._dice.randint(1, 8 if at.startswith(TOGETHER) else 40)

    async def _under_load(self, within_s: float, *, reindex: bool) -> bool:
        """Load the service until it is gone, by itself (True) or, after `within_s`, by SIGKILL from here."""
        url, admin = self._service.url, self._keys["admin"]
        loading = asyncio.create_task(self._load.run(url, admin, new=self._new, changes=self._changes))
        dying = asyncio.create_task(self._service.died())
        killed = asyncio.Event()
        disturbing = asyncio.create_task(self._service.disturb(killed))
        if reindex:
            await self._load.reindex(url, admin)
        await asyncio.wait([dying], timeout=within_s)
        by_itself = dying.done()
        await self._service.kill()
        killed.set()
        await asyncio.gather(dying, disturbing, loading)
        return by_itself

    async def _settled(self) -> float:
        """Seconds until nothing is due and nothing is being built, or until what still is has not moved for too long, or has
        moved for far too long."""
        start = moved_at = time.perf_counter()
        seen: object = None
        while (left := await self._service.left()).anything and (
            now := time.perf_counter()
        ) - start <= SETTLED_WITHIN_S:
            if seen != (seen := (left, await self._service.written())):
                moved_at = now
            elif now - moved_at > STUCK_AFTER_S:
                moved_at = max(moved_at, now - self._service.blob_age_s())  # asked last: there are so many
                if now - moved_at > STUCK_AFTER_S:
                    break
            await asyncio.sleep(0.05)
        return time.perf_counter() - start

    async def _end(self, books: Books) -> tuple[int, Verdict]:
        """How many blobs had no owner, and the books once the housekeeper has been through."""
        await self._load.run(self._service.url, self._keys["admin"], new=CLIENTS * self._documents, changes=0)
        settled_s = await self._settled()
        self._service.age_blobs(2 * ORPHAN_GRACE_S)
        found = 0
        async with self._http() as http:
            for look in range(ORPHANS_WITHIN):
                findings = (await http.post("/v1/audit")).json()["findings"]
                orphans = sum(one["kind"] == "orphan blob" for one in findings)
                found = orphans if look == 0 else found
                if not orphans:
                    break
                await asyncio.sleep(1.0)
        return found, await self._check(books, settled_s, searched=None)

    async def _make_keys(self) -> None:
        self._keys["admin"] = await self._service.owner()
        made = {"admin": ("admin", []), "insider": ("read", [TEAM]), "outsider": ("read", [])}
        async with self._http() as http:
            for name, (role, groups) in made.items():
                body = {"principal": name, "role": role, "groups": groups}
                answer = await http.post("/v1/keys", json=body)
                assert answer.status_code == 201, answer.text
                made_key = str(answer.json()["token"])
                if name == "admin":
                    http.headers["Authorization"] = f"Bearer {made_key}"
                self._keys[name] = made_key

    def _http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._keys['admin']}"}
        return httpx.AsyncClient(base_url=self._service.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
