"""The loops that work on jobs: one for each queue, and one that looks after what nobody works on.

A word from the queue wakes them; they look by the clock all the same, so a word that is lost costs a second.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable

import structlog

from ragline import metrics, tracing
from ragline.clock import Clock
from ragline.errors import EngineDenied, EngineError, RaglineError
from ragline.jobs import Jobs, Lost
from ragline.protocols import JobQueue
from ragline.settings import JobsSettings
from ragline.types import QUEUES, Job, QueueName, Wake

log = structlog.get_logger()

LOOK_S = 1.0
"""How long an idle loop waits for a word before it looks by itself."""

UPKEEP_S = 60.0
"""Between two rounds of forgetting."""

OVERDUE_AT_ONCE = 100

MOST_BACKOFF_S = 30.0

MOST_DEFECTS = 3
"""Attempts of one job that may end by a defect of ours before it fails: it may have been the moment."""

RENEWALS = 6
"""In one lease; also how often a worker that says nothing finds out that its job was cancelled."""

DUTY = "job upkeep"
DUTY_S = 10.0
"""How long another process waits before it takes the duty over; a third of it is between two times that the holder asks."""


class JobWorker:
    """Works on one queue, `most` jobs at a time."""

    def __init__(
        self, queue_name: QueueName, *, jobs: Jobs, queue: JobQueue, clock: Clock, settings: JobsSettings,
        tracer: tracing.Tracer | None = None,
    ) -> None:  # fmt: skip
        self._name: QueueName = queue_name
        self._jobs = jobs
        self._queue = queue
        self._clock = clock
        self._settings = settings
        self._tracer = tracer
        self._most = settings.retrievals if queue_name == "retrieval" else settings.generations
        stages: dict[QueueName, Callable[[Job], Awaitable[None]]] = {
            "retrieval": jobs.retrieve, "generation": jobs.generate
        }  # fmt: skip
        self._stage = stages[queue_name]
        self._working: dict[asyncio.Task[None], Job] = {}
        self._claiming: asyncio.Future[list[Job]] | None = None

    async def run(self) -> None:
        """Until cancelled. What is in work then gets `drain_s` to finish, and is given back after that."""
        renewing = asyncio.create_task(self._renew())
        busy = True  # look first, then wait
        try:
            while True:
                try:
                    busy = await self._round(waits=not busy)
                except RaglineError as error:
                    log.warning("no jobs claimed", queue=self._name, error=str(error))
                    await asyncio.sleep(LOOK_S)
                except Exception:  # a defect must be seen, and must not end the loop
                    log.exception("defect while claiming jobs", queue=self._name)
                    await asyncio.sleep(LOOK_S)
        finally:
            await self._drain()
            renewing.cancel()

    def stop(self, id: str) -> None:
        """Somebody else has ended this job: whoever is at it here need not find out for himself."""
        for task, job in self._working.items():
            if job.id == id:
                task.cancel()

    async def _round(self, *, waits: bool) -> bool:
        """Claim what there is room for; first wait for a word, if the last round found nothing. Whether it found something."""
        free = self._most - len(self._working)
        if not free:
            await asyncio.wait(self._working, return_when=asyncio.FIRST_COMPLETED)
            return True
        wakes: list[Wake] = []
        try:
            wakes = await self._queue.wait(self._name, most=free, within_s=LOOK_S if waits else 0.0)
        except EngineError as error:
            log.warning("queue away, looking by the clock", queue=self._name, error=error.message)
            await asyncio.sleep(LOOK_S if waits else 0.0)
        # Shielded: a claim that is committed must be known of, so that it can be given back.
        store, lease_s = self._jobs.store, self._settings.lease_s
        self._claiming = asyncio.ensure_future(store.claim(self._name, most=free, lease_s=lease_s))
        claimed = await asyncio.shield(self._claiming)
        self._claiming = None
        for job in claimed:
            task = asyncio.create_task(self._one(job))
            self._working[task] = job
            task.add_done_callback(lambda task: self._working.pop(task, None))
        if wakes:
            await self._settle(wakes)
        return bool(claimed or wakes)

    async def _settle(self, wakes: list[Wake]) -> None:
        try:
            await self._queue.settle(self._name, wakes)
        except EngineError as error:
            log.warning("words of the queue not settled, they come again", queue=self._name, error=error.message)

    async def _one(self, job: Job) -> None:
        """One attempt; however it ends, the store has it in words, or its lease ends."""
        with tracing.begun(self._tracer, f"job {self._name}", traceparent=job.traceparent) as span:
            span.note({"ragline.job": job.id, "ragline.attempt": job.attempt, "ragline.queue": self._name})
            await self._attempt(job)

    async def _attempt(self, job: Job) -> None:
        how = "finished"
        try:
            await self._stage(job)
        except Lost:
            how = "lost"
        except RaglineError as error:
            how = await self._went_wrong(job, error)
        except asyncio.CancelledError:
            metrics.job_attempts_total.labels(self._name, "stopped").inc()
            raise
        except Exception as error:  # a defect must cost its own job only, and must be seen
            log.exception("defect in a job", job=job.id, queue=self._name)
            how = await self._went_wrong(job, error)
        metrics.job_attempts_total.labels(self._name, how).inc()

    async def _went_wrong(self, job: Job, error: Exception) -> str:
        """An engine that is away, or whose account is to be mended, is waited for until the job's deadline; what cannot come
        right ends the job."""
        try:
            if isinstance(error, EngineDenied) or (isinstance(error, RaglineError) and error.retryable):
                return await self._put_off(job, error)
            if isinstance(error, RaglineError):
                await self._jobs.fail(job, _word(error), error.message, error.next_step)
            elif job.attempt < MOST_DEFECTS:
                return await self._put_off(job, error)
            else:
                words = f"Ragline failed in a way it should not: {type(error).__name__}."
                await self._jobs.fail(job, "defect", words, "Report it with the log line of this moment.")
        except Lost:
            return "lost"
        except Exception as told:  # noqa: BLE001 (told; the lease ends by itself)
            log.warning("the end of an attempt is not written, its lease will end", job=job.id, error=str(told))
        return "finished"

    async def _put_off(self, job: Job, error: Exception) -> str:
        backoff_s = min(MOST_BACKOFF_S, 2.0 ** min(job.attempt, 5)) * random.uniform(0.5, 1.0)
        words = str(error) if isinstance(error, RaglineError) else type(error).__name__
        log.warning("job put off", job=job.id, queue=self._name, attempt=job.attempt, why=words)
        return "put_off" if await self._jobs.store.release(job.id, job.attempt, after_s=backoff_s) else "lost"

    async def _renew(self) -> None:
        """Go on owning what is in work; what is not ours any more is stopped."""
        while True:
            await asyncio.sleep(self._settings.lease_s / RENEWALS)
            for task, job in list(self._working.items()):
                try:
                    if not await self._jobs.store.renew(job.id, job.attempt, lease_s=self._settings.lease_s):
                        task.cancel()
                except Exception as error:  # noqa: BLE001 (told; there are more tries in one lease)
                    log.warning("lease of a job not renewed", job=job.id, error=str(error))

    async def _drain(self) -> None:
        claimed = await asyncio.gather(self._claiming, return_exceptions=True) if self._claiming else []
        unbegun = [job for found in claimed if isinstance(found, list) for job in found]
        if self._working:
            await asyncio.wait(self._working, timeout=self._settings.drain_s)
        working = dict(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        for job in (*working.values(), *unbegun):
            try:
                if await self._jobs.store.release(job.id, job.attempt, after_s=0.0):
                    await self._jobs.notify(self._name, job.id)
            except Exception as error:  # noqa: BLE001 (told; the lease ends by itself)
                log.warning("job not given back, its lease will end", job=job.id, error=str(error))


class JobUpkeep:
    """Ends what is past its deadline. Of all processes one holds the duty to forget what is old, and to export the lengths of the
    queues: several that exported the same would be added up."""

    def __init__(
        self, *, jobs: Jobs, workers: dict[QueueName, JobWorker], clock: Clock, settings: JobsSettings
    ) -> None:
        self._jobs = jobs
        self._workers = workers
        self._clock = clock
        self._settings = settings
        self._me = secrets.token_hex(8)
        self._next_upkeep = clock.monotonic()
        self._ask_at = clock.monotonic()
        self._holds = False

    async def run(self) -> None:
        try:
            while True:
                try:
                    await self.round()
                except RaglineError as error:
                    _export(None)
                    log.warning("jobs not looked after", error=str(error))
                except Exception:  # a defect must be seen, and must not end the loop
                    _export(None)
                    log.exception("defect while looking after jobs")
                await asyncio.sleep(LOOK_S)
        finally:
            _export(None)

    async def round(self) -> None:
        store = self._jobs.store
        while ended := await self._jobs.end_overdue(most=OVERDUE_AT_ONCE, lease_s=self._settings.lease_s):
            for id in ended:
                for worker in self._workers.values():
                    worker.stop(id)
        if self._clock.monotonic() >= self._ask_at:
            self._ask_at = self._clock.monotonic() + DUTY_S / 3
            self._holds = False  # if the store cannot say, somebody else may
            self._holds = await store.hold(DUTY, holder=self._me, lease_s=DUTY_S)
        if not self._holds:
            return _export(None)
        _export(await store.lengths())
        if self._clock.monotonic() >= self._next_upkeep:
            await store.upkeep(events_s=self._settings.events_retention_s, jobs_s=self._settings.retention_s)
            self._next_upkeep = self._clock.monotonic() + UPKEEP_S
        return None


def _export(lengths: dict[QueueName, int] | None) -> None:
    """None: another process does."""
    if lengths is None:
        return metrics.queue_length.clear()
    for queue in QUEUES:
        metrics.queue_length.labels(queue).set(lengths[queue])
    return None


def _word(error: RaglineError) -> str:
    """A reason in one word, such as ``not_found``."""
    return "".join(f"_{c.lower()}" if c.isupper() and n else c.lower() for n, c in enumerate(type(error).__name__))
