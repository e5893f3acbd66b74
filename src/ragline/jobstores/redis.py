"""Jobs in Redis: every change is one script, so that it is one commit; what it has answered is on its disk.

    redis[s]://HOST[:PORT][/DB]…   with appendonly yes, appendfsync always and maxmemory-policy noeviction: checked at the start

The scripts are in `lua/`, the keys in docs/engines/redis.md. Time is the server's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import structlog

from ragline.coalescing import Coalescer
from ragline.errors import ConfigurationError, Overloaded
from ragline.jobstores import refusals
from ragline.jobstores.redis_outbox import RedisOutbox
from ragline.jobstores.redis_rows import LISTED, event_of, fields_of, job_of, listed_of, microseconds, seconds
from ragline.jobstores.redis_server import JobServer
from ragline.serialisation import dump_request
from ragline.types import (
    IDEMPOTENCY_S,
    QUEUES,
    WORKER_LOST,
    Ending,
    Job,
    JobEvent,
    JobLimits,
    JobOrder,
    JobState,
    NewEvent,
    QueueName,
)

log = structlog.get_logger()

MOST_ACCEPTED = 64
"""Orders in one script: it holds everybody else up."""

PAGE = 200
"""Jobs read at once while looking for those of a state."""

MOST_FORGOTTEN = 200
"""Jobs in one commit of upkeep: a script holds everybody else up."""

BEYOND_S = 3600.0
"""No lease is longer, and no job is accepted in the future: what says otherwise was written before the clock went back."""


class RedisJobStore(RedisOutbox):
    """See `protocols.JobStore`. Made by `open`."""

    def __init__(self, jobs: JobServer, *, vouched: bool) -> None:
        super().__init__(jobs)
        self._vouched = vouched
        self._accept: Coalescer[tuple[JobOrder, JobLimits], tuple[Job, bool]] = Coalescer(
            self._accept_all, most=MOST_ACCEPTED
        )

    @classmethod
    async def open(cls, url: str, *, vouched: bool = False) -> RedisJobStore:
        """`vouched`: a server that does not tell its settings is taken at the operator's word.

        Raises:  ConfigurationError: the URL; a server that may lose what it has taken.  EngineError: it does not answer.
        """
        jobs = JobServer(url)
        try:
            await jobs.open(vouched=vouched)
        except BaseException:
            await jobs.aclose()
            raise
        return cls(jobs, vouched=vouched)

    async def accept(self, order: JobOrder, limits: JobLimits) -> tuple[Job, bool]:
        return await self._accept((order, limits))

    async def _accept_all(self, batch: list[tuple[JobOrder, JobLimits]]) -> list[tuple[Job, bool] | Exception]:
        """Those that came while the last ones were on their way, in one commit."""
        said = await self._jobs.run("accept", *(word for order, limits in batch for word in _words(order, limits)))
        return [_accepted(order, one) for (order, _), one in zip(batch, said, strict=True)]

    async def get(self, id: str) -> Job:
        self._jobs.must_be_open()
        with self._jobs.server.translating("reading a job"):
            found: Any = await self._jobs.server.client.hgetall(self._jobs.key("job", id))
        if not found:
            raise refusals.unknown_job(id)
        return job_of(found)

    async def page(self, *, principal: str | None, state: JobState | None, most: int, before: str | None) -> list[Job]:
        self._jobs.must_be_open()
        client = self._jobs.server.client
        line = self._jobs.key("all") if principal is None else self._jobs.key("of", principal)
        found: list[Job] = []
        with self._jobs.server.translating("listing jobs"):
            while len(found) < most:
                below = "+" if before is None else f"({before}"
                ids: Any = await client.zrange(line, below, "-", desc=True, bylex=True, offset=0, num=PAGE)
                if not ids:
                    break
                before = ids[-1].decode()
                async with client.pipeline(transaction=False) as several:
                    for id in ids:
                        several.hmget(self._jobs.key("job", id.decode()), LISTED)
                    rows = await several.execute()
                found += [job for row in rows if (job := listed_of(row)) and state in (None, job.state)]
        return found[:most]

    # ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self, queue: QueueName, *, most: int, lease_s: float) -> list[Job]:
        if most < 1:
            return []
        found = await self._jobs.run("claim", queue, most, microseconds(lease_s), WORKER_LOST)
        return [job_of(fields_of(one)) for one in found]

    async def claim_overdue(self, *, most: int, lease_s: float) -> list[Job]:
        found = await self._jobs.run("claim_overdue", most, microseconds(lease_s))
        return [job_of(fields_of(one)) for one in found]

    async def renew(self, id: str, attempt: int, *, lease_s: float) -> bool:
        return bool(await self._jobs.run("lease", id, attempt, microseconds(lease_s)))

    async def release(self, id: str, attempt: int, *, after_s: float) -> bool:
        return bool(await self._jobs.run("lease", id, attempt, microseconds(after_s)))

    async def append(self, id: str, attempt: int, events: Sequence[NewEvent]) -> bool:
        shows = {"token": 1, "restarted": 0}
        said = [shows[event.name] for event in events if event.name in shows]
        return bool(await self._jobs.run("append", id, attempt, said[-1] if said else "", *_flat(events)))

    async def retrieved(
        self, id: str, attempt: int, passages: bytes, *, ttl_s: float, events: Sequence[NewEvent]
    ) -> bool:
        ttl_ms = max(1, int(ttl_s * 1000))
        return bool(await self._jobs.run("retrieved", id, attempt, passages, ttl_ms, *_flat(events)))

    async def passages(self, id: str) -> bytes | None:
        self._jobs.must_be_open()
        with self._jobs.server.translating("reading passages"):
            found: Any = await self._jobs.server.client.get(self._jobs.key("passages", id))
        return cast("bytes | None", found)

    # ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def finish(self, id: str, attempt: int, ending: Ending) -> bool:
        said = await self._end(id, attempt, ending)
        return bool(said[0] == b"ended")

    async def cancel(self, id: str, ending: Ending) -> Job:
        said = await self._end(id, "", ending)
        if said[0] == b"unknown":
            raise refusals.unknown_job(id)
        return job_of(fields_of(said[1]))

    async def retry(self, id: str, *, deadline_s: float, limits: JobLimits) -> Job:
        said = await self._jobs.run("retry", id, microseconds(deadline_s), limits.most, limits.of_namespace)
        match said[0]:
            case b"made":
                return job_of(fields_of(said[1]))
            case b"unknown":
                raise refusals.unknown_job(id)
            case b"not":
                raise refusals.not_failed(id, said[1].decode())
        raise _full(said, said[-1].decode())

    async def _end(self, id: str, attempt: int | str, ending: Ending) -> Any:
        return await self._jobs.run(
            "finish", id, attempt, ending.state.value, _optional(ending.answer), _optional(ending.reason),
            _bytes(ending.detail), _bytes(ending.next_step), _optional(ending.webhook), *_flat(ending.events),
        )  # fmt: skip

    # ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def events(self, id: str, *, after: int, most: int) -> list[JobEvent]:
        forgotten, lines, has_some = await self._jobs.run("events", id, after, most)
        if forgotten is None:
            raise refusals.unknown_job(id)
        if not has_some and int(forgotten):
            raise refusals.forgotten_events(id)
        first = max(after, int(forgotten)) + 1
        return [event_of(number, line) for number, line in enumerate(lines, start=first)]

    async def latest(self, ids: Sequence[str]) -> dict[str, int]:
        self._jobs.must_be_open()
        with self._jobs.server.translating("looking at jobs"):
            async with self._jobs.server.client.pipeline(transaction=False) as several:
                for id in ids:
                    several.hget(self._jobs.key("job", id), "events")
                found = await several.execute()
        return {id: int(newest) for id, newest in zip(ids, found, strict=True) if newest is not None}

    def watch(self, told: Callable[[str | None], None]) -> None:
        self._jobs.watch(told)

    async def lengths(self) -> dict[QueueName, int]:
        self._jobs.must_be_open()
        with self._jobs.server.translating("counting jobs"):
            found = await self._jobs.server.client.hmget(self._jobs.key("counts"), QUEUES)
        return {queue: int(many or 0) for queue, many in zip(QUEUES, found, strict=True)}

    async def hold(self, duty: str, *, holder: str, lease_s: float) -> bool:
        return bool(await self._jobs.run("hold", duty, holder, max(1, int(lease_s * 1000))))

    async def upkeep(self, *, events_s: float, jobs_s: float) -> int:
        """Passages past their time and old Idempotency-Keys go by themselves. Beside it, a server whose settings were changed
        so that it may lose jobs is told of in the log."""
        try:
            await self._jobs.check(vouched=self._vouched)
        except ConfigurationError as error:
            log.error("the job store may lose jobs", error=str(error))
        await self._jobs.run("turn_back", microseconds(BEYOND_S))
        await self._in_parts("events", events_s)
        forgotten = await self._in_parts("jobs", jobs_s)
        skip = 0
        while True:
            seen, gone = await self._jobs.run("forget_deliveries", microseconds(jobs_s), skip, MOST_FORGOTTEN)
            skip += seen - gone
            if seen < MOST_FORGOTTEN:
                return forgotten

    async def aclose(self) -> None:
        await self._accept.aclose()
        await self._jobs.aclose()

    async def _in_parts(self, what: str, older_s: float) -> int:
        total = 0
        while done := await self._jobs.run("forget", what, microseconds(older_s), MOST_FORGOTTEN):
            total += done
        return total


def _words(order: JobOrder, limits: JobLimits) -> tuple[str | bytes | int, ...]:
    return (
        order.id, order.principal, order.request.namespace, dump_request(order.request, order.traceparent),
        order.fingerprint, _key_of(order),
        order.webhook or "", microseconds(order.deadline_s), int(IDEMPOTENCY_S * 1000), limits.most, limits.of_namespace,
    )  # fmt: skip


def _accepted(order: JobOrder, said: Sequence[Any]) -> tuple[Job, bool] | Exception:
    match said[0]:
        case b"made":
            created_at, deadline_at = map(seconds, said[1:])
            job = Job(
                id=order.id, principal=order.principal, request=order.request, webhook=order.webhook,
                traceparent=order.traceparent,
                state=JobState.QUEUED, queue="retrieval", attempt=0, retries=0, events=1, created_at=created_at,
                deadline_at=deadline_at,
            )  # fmt: skip
            return job, True
        case b"known":
            return job_of(fields_of(said[1])), False
        case b"other":
            return refusals.other_order(said[1].decode())
    return _full(said, order.request.namespace)


def _key_of(order: JobOrder) -> str:
    """A key is one principal's own; both are any text."""
    if order.idempotency_key is None:
        return ""
    told = f"{len(order.principal)}:{order.principal}{order.idempotency_key}"
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def _full(said: Sequence[Any], namespace: str) -> Overloaded:
    kind, queue, holds, over, left = said[:5]
    name: QueueName = "retrieval" if queue == b"retrieval" else "generation"
    return refusals.full_queue(name, namespace if kind == b"share" else None, holds=holds, over=over, left=left)


def _flat(events: Sequence[NewEvent]) -> list[str | bytes]:
    return [word for event in events for word in (event.name, _bytes(event.data))]


def _optional(word: bytes | str | None) -> bytes:
    """None is empty; an empty one is not."""
    return b"" if word is None else b"=" + (word if isinstance(word, bytes) else _bytes(word))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
