"""Leave an engine out while it fails, and look beside the requests whether it is back.

    in use ─(RUNNING failures running, or half of the last LOOKED_AT)─▶ left out ─(two probes running came through)─▶ in use

An answer that comes too late is a failure: an engine that hangs costs each request more than one that refuses. While it is left
out nobody waits for it, and no request is spent on finding out whether it is back.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from ragline import metrics
from ragline.clock import Clock
from ragline.errors import EngineDenied, EngineError, EngineRejected, EngineTimeout, EngineUnavailable, Overloaded

log = structlog.get_logger()
T = TypeVar("T")

RUNNING = 5
"""Failures running, by default: one or two are a hiccup."""

LOOKED_AT = 20
"""Calls; when half of them failed, it is left out also though some came through in between."""

PROBE_EVERY_S, PROBE_WITHIN_S = 1.0, 2.0

SAMPLES = 200
"""Latencies of which the 95th percentile is taken."""

FEWEST = 20
"""Samples below which nothing is said of it."""

Probe = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one engine in this process, for `GET /v1/status`.

    Units: `since`, `last_error_at` seconds since 1970.   p95_ms: None: too few calls to say.
    """

    name: str
    left_out: bool
    since: float
    p95_ms: float | None
    deadline_ms: float | None
    last_error: str
    last_error_at: float | None


TIMES_P95 = 3
"""A call that takes longer than so many times what nearly all of the last ones took is not worth waiting for."""


class Breaker:
    """Stands before one engine, in this process. `engine`: its name in metrics and status, such as ``dense``; `called`: in
    messages, such as "The dense leg"; `after`: so many failures running it is left out, 0: never."""

    def __init__(
        self, engine: str, clock: Clock, *, called: str, after: int = RUNNING, probe_every_s: float | None = None,
        probe_within_s: float = PROBE_WITHIN_S,
    ) -> None:  # fmt: skip
        self.engine = engine
        self._called = called
        self._after = after
        self._clock = clock
        self._every_s, self._within_s = probe_every_s, probe_within_s
        self._outcomes: deque[bool] = deque(maxlen=LOOKED_AT)
        self._took_s: deque[float] = deque(maxlen=SAMPLES)
        self._p95_s: float | None = None
        self._running = 0
        self._since = clock.now()
        self._last_error, self._last_error_at = "", 0.0
        self._waiting: set[asyncio.Timeout] = set()
        self._probing: asyncio.Task[None] | None = None
        metrics.left_out.labels(engine).set(0)

    @property
    def is_open(self) -> bool:
        """Whether the engine is left out for now."""
        return self._probing is not None

    @property
    def p95_s(self) -> float | None:
        """Of the last calls, those that were broken off counted as long as they were waited for. None: too few."""
        if self._p95_s is None and len(self._took_s) >= FEWEST:
            self._p95_s = sorted(self._took_s)[math.ceil(0.95 * len(self._took_s)) - 1]
        return self._p95_s

    def deadline_s(self, *, cap_s: float, floor_s: float) -> float:
        """What a call is worth waiting for: it follows what nearly all of the last ones took. The cap while too few were seen."""
        p95_s = self.p95_s
        return cap_s if p95_s is None else min(cap_s, max(floor_s, TIMES_P95 * p95_s))

    async def call(
        self, work: Callable[[], Awaitable[T]], *, within_s: float, next_step: str, probe: Probe | None = None
    ) -> T:
        """What `work` returns. `next_step`: for whoever did not get an answer within `within_s`; `probe`: else `work` itself.

        Raises:  EngineUnavailable: it is left out.  EngineTimeout.  Whatever `work` raises.
        """
        if self.is_open:
            raise self.left_out()
        began = time.perf_counter()
        try:
            async with asyncio.timeout(within_s) as limit:
                self._waiting.add(limit)
                try:
                    answer = await work()
                finally:
                    self._waiting.discard(limit)
        except TimeoutError:
            late = self.late(within_s, next_step)
            self.failed(late, probe or work, waited_s=time.perf_counter() - began)
            raise late from None
        except EngineError as error:
            if blames(error):
                self.failed(error, probe or work)
            raise
        self.came_through(time.perf_counter() - began)
        return answer

    def left_out(self) -> EngineUnavailable:
        return EngineUnavailable(
            f"{self._called} is left out: {self._last_error}",
            next_step="It is taken in again by itself once it answers; see `ragline status`.",
            engine=self.engine,
        )

    def late(self, waited_s: float, next_step: str) -> EngineTimeout:
        words = f"{self._called} gave no answer within {waited_s * 1000:.0f} ms."
        return EngineTimeout(words, next_step=next_step, engine=self.engine)

    def came_through(self, took_s: float) -> None:
        self._running = 0
        self._outcomes.append(True)
        self._sample(took_s)

    def failed(self, error: Exception, probe: Probe, *, waited_s: float | None = None) -> None:
        """`probe` is called from time to time while the engine is left out; `waited_s`: for an answer that came not in time."""
        self._last_error, self._last_error_at = str(error) or type(error).__name__, self._clock.now()
        if waited_s is not None:
            self._sample(waited_s)
        self._outcomes.append(False)
        self._running += 1
        half = len(self._outcomes) == LOOKED_AT and 2 * sum(self._outcomes) <= LOOKED_AT
        if self._probing is None and self._after and (self._running >= self._after or half):
            log.warning("left out", engine=self.engine, error=self._last_error)
            self._turn()
            metrics.left_out.labels(self.engine).set(1)
            self._probing = asyncio.create_task(self._probe(probe), context=contextvars.Context())
            now = asyncio.get_running_loop().time()
            for limit in self._waiting:  # who waits already need not wait longer than those who come
                if not limit.expired():
                    limit.reschedule(now)

    def standing(self, deadline_s: float | None = None) -> Standing:
        p95_s = self.p95_s
        return Standing(
            self.engine, self.is_open, self._since, None if p95_s is None else round(p95_s * 1000, 1),
            None if deadline_s is None else round(deadline_s * 1000, 1), self._last_error, self._last_error_at or None,
        )  # fmt: skip

    async def aclose(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    def _sample(self, took_s: float) -> None:
        self._took_s.append(took_s)
        if len(self._took_s) % 10 == 0 or len(self._took_s) == SAMPLES:
            self._p95_s = None

    def _turn(self) -> None:
        """What was seen before says nothing of after."""
        self._since = self._clock.now()
        self._outcomes.clear()
        self._took_s.clear()
        self._p95_s, self._running = None, 0

    async def _probe(self, probe: Probe) -> None:
        """Twice: the first may have to connect; the second looks whether it stays. At once: it may have been this process that
        hung, not the engine."""
        while not (await self._answers(probe) and await self._answers(probe)):  # noqa: ASYNC110 (it is asked: it does not tell)
            await asyncio.sleep(PROBE_EVERY_S if self._every_s is None else self._every_s)
        self._probing = None
        self._turn()
        metrics.left_out.labels(self.engine).set(0)
        log.info("back in use", engine=self.engine)

    async def _answers(self, probe: Probe) -> bool:
        try:
            async with asyncio.timeout(self._within_s):
                await probe()
        except Exception as error:  # noqa: BLE001 (whatever it is, it was a probe)
            return not blames(error)
        return True


def blames(error: Exception) -> bool:
    """Whether `error` is the engine's doing: what it refuses to a single request says that it answers."""
    if isinstance(error, EngineRejected):
        return isinstance(error, EngineDenied)
    return isinstance(error, EngineError | Overloaded | TimeoutError | OSError)
