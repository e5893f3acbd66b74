"""The queue inside one process: for jobs on the embedded store, and for the wakes that a vendor pushes to this process.

Nothing of it outlives the process, and nothing has to: a job store holds the jobs, and workers also look by the clock.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ragline.clock import Clock
from ragline.errors import EngineUnavailable
from ragline.types import QueueName, Wake

ENGINE = "queue:memory"

AGAIN_S = 60.0
"""After which a wake that was not settled comes again; a claim takes milliseconds."""

MOST_WAITING = 100_000
"""Of one queue; the oldest go first. Their jobs are found by the clock."""


@dataclass(slots=True)
class _Line:
    """ready: jobs to hand out, oldest first.   out: number of a wake → its job and when it comes again, in that order."""

    ready: dict[str, None] = field(default_factory=dict)
    out: dict[int, tuple[str, float]] = field(default_factory=dict)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def wake_one(self) -> None:
        while self.waiting:
            one = self.waiting.popleft()
            if not one.done():
                one.set_result(None)
                return


class InProcessJobQueue:
    """Of one event loop. A job that is notified twice before it is handed out is handed out once."""

    def __init__(self, clock: Clock, *, again_s: float = AGAIN_S) -> None:
        self._clock = clock
        self._again_s = again_s
        self._lines: dict[QueueName, _Line] = {"retrieval": _Line(), "generation": _Line()}
        self._numbers = 0
        self._closed = False

    async def check(self) -> None:
        self._open("retrieval")

    async def notify(self, queue: QueueName, job: str) -> None:
        line = self._open(queue)
        line.ready[job] = None
        if len(line.ready) > MOST_WAITING:
            del line.ready[next(iter(line.ready))]
        line.wake_one()

    async def wait(self, queue: QueueName, *, most: int, within_s: float) -> list[Wake]:
        until = self._clock.monotonic() + within_s
        while True:
            line = self._open(queue)
            if found := self._take(line, most):
                if line.ready:
                    line.wake_one()
                return found
            now = self._clock.monotonic()
            if now >= until:
                return []
            again_at = next((at for _, at in line.out.values()), math.inf)
            told = asyncio.get_running_loop().create_future()
            line.waiting.append(told)
            try:
                async with asyncio.timeout(min(until, again_at) - now):
                    await told
            except TimeoutError:
                pass
            finally:
                if told in line.waiting:
                    line.waiting.remove(told)
                elif line.ready:  # told, and maybe cancelled in the same moment: somebody else must look
                    line.wake_one()

    async def settle(self, queue: QueueName, wakes: Sequence[Wake]) -> None:
        line = self._open(queue)
        for wake in wakes:
            if isinstance(wake.token, int):
                line.out.pop(wake.token, None)

    async def aclose(self) -> None:
        self._closed = True
        for line in self._lines.values():
            while line.waiting:
                line.wake_one()

    def _take(self, line: _Line, most: int) -> list[Wake]:
        now = self._clock.monotonic()
        for number, (job, at) in list(line.out.items()):
            if at > now:
                break
            del line.out[number]
            line.ready[job] = None
        found = []
        for job in list(line.ready)[:most]:
            del line.ready[job]
            self._numbers += 1
            line.out[self._numbers] = job, now + self._again_s
            found.append(Wake(job, self._numbers))
        return found

    def _open(self, queue: QueueName) -> _Line:
        if self._closed:
            raise EngineUnavailable("The job queue is closed.", next_step="Start the process again.", engine=ENGINE)
        return self._lines[queue]
