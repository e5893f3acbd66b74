"""Following the events of jobs: any number of clients of one process, on one pulse.

The store says which job has new events, of whatever process; whoever follows that job is woken up and reads on from where he
stands. Those that stand at the same event read once, together. Nobody asks by the clock for himself: one beat a process looks at
all that is followed, for a pulse that was lost, and keeps the connections alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import structlog

from ragline import metrics
from ragline.errors import RaglineError
from ragline.protocols import JobStore
from ragline.singleflight import SingleFlight
from ragline.types import JobEvent

log = structlog.get_logger()

BEAT_S = 15.0
"""Between two beats: proxies close a connection that is silent for half a minute or longer."""

MOST_EVENTS = 200
"""Read at a time: bounds what a client that begins anew costs in memory."""

READS_AT_ONCE = 4
"""Of the store, for all followers: thousands that are woken together must wait here, and not until the store's own patience with
callers is over. Fewer than a database has connections for readers: others read as well."""

LAST = ("done", "failed")


class _Follower:
    """`after`: the event that it stands at.   `moved`: there may be more.   `beat`: there is not, but say that we live."""

    __slots__ = ("after", "beat", "moved")

    def __init__(self, after: int) -> None:
        self.after = after
        self.beat = False
        self.moved = asyncio.Event()


class _Followed:
    """A job, and who follows it. `pulses`: a read that began before the newest one must not be shared by whoever came after."""

    __slots__ = ("followers", "pulses")

    def __init__(self) -> None:
        self.followers: set[_Follower] = set()
        self.pulses = 0


class JobWatching:
    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._followed: dict[str, _Followed] = {}
        self._reads: SingleFlight[list[JobEvent]] = SingleFlight()
        self._places = asyncio.Semaphore(READS_AT_ONCE)
        self._beating: asyncio.Task[None] | None = None
        self._hears = False
        self._closed = False

    async def follow(self, job: str, *, after: int) -> AsyncGenerator[Sequence[JobEvent], None]:
        """The job's events above `after` as they come, until `done` or `failed` is the newest. The first answer comes at once,
        with what there is; later an empty one says that the line still stands.

        Raises:  NotFound; Gone; EngineError: read on from where you stand.
        """
        follower, first, last = _Follower(after), True, ""
        followed = self._enter(job, follower)
        try:
            while not self._closed:
                follower.moved.clear()  # before the read: what is told after it wakes us again
                found = await self._read(job, followed, follower.after)
                if found:
                    follower.after, last = found[-1].id, found[-1].name
                if found or first:
                    first = False
                    yield found
                if len(found) == MOST_EVENTS:
                    continue
                if last in LAST:  # of an earlier read, where that was full and this one is empty
                    return
                await follower.moved.wait()
                while follower.beat:
                    follower.beat = False
                    follower.moved.clear()
                    yield []
                    await follower.moved.wait()
        finally:
            self._leave(job, followed, follower)

    async def beat(self) -> None:
        """Wake up those whose job has moved on unheard; tell the others that we live."""
        try:
            latest = await self._store.latest(list(self._followed))
        except RaglineError as error:
            log.warning("followed jobs not looked at", error=str(error))
            latest = {}
        for job, followed in self._followed.items():
            for follower in followed.followers:
                if not follower.moved.is_set():
                    follower.beat = latest.get(job, 0) <= follower.after
                    follower.moved.set()

    async def aclose(self) -> None:
        """End every stream: its client reads on from another replica."""
        self._closed = True
        self._heard(None)
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    async def _read(self, job: str, followed: _Followed, after: int) -> list[JobEvent]:
        async def read() -> list[JobEvent]:
            async with self._places:
                return await self._store.events(job, after=after, most=MOST_EVENTS)

        return await self._reads.run((job, after, followed.pulses), read)

    def _heard(self, job: str | None) -> None:
        """`job` None: any of them may have moved on."""
        told = list(self._followed.values()) if job is None else [self._followed[job]] if job in self._followed else []
        for followed in told:
            followed.pulses += 1
            for follower in followed.followers:
                follower.beat = False
                follower.moved.set()

    def _enter(self, job: str, follower: _Follower) -> _Followed:
        if not self._hears:
            self._store.watch(self._heard)
            self._hears = True
        followed = self._followed.setdefault(job, _Followed())
        followed.followers.add(follower)
        metrics.job_watchers.inc()
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat())
        return followed

    def _leave(self, job: str, followed: _Followed, follower: _Follower) -> None:
        followed.followers.discard(follower)
        if not followed.followers and self._followed.get(job) is followed:
            del self._followed[job]
        metrics.job_watchers.dec()

    async def _beat(self) -> None:
        """While anybody follows."""
        while self._followed:
            await asyncio.sleep(BEAT_S)
            await self.beat()
