"""Jobs in SQLite or PostgreSQL: one SQL for both.

    sqlite:///…/jobs.sqlite   a file of its own in the data folder: its commits do not wait for the registry's
    postgresql://…            any database; the tables may stand beside the registry's

Every change is one work of a transaction; what queued meanwhile goes in one commit with it. Claims alone go beside the one
writer, where the database can let them. Time is the database server's, or on SQLite the injected clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, literal, select

from ragline.background import Queries
from ragline.clock import Clock
from ragline.coalescing import Coalescer
from ragline.connections.database import Database
from ragline.errors import Overloaded
from ragline.jobstores import sql_rows as rows
from ragline.jobstores.migrations import SCHEMA
from ragline.jobstores.refusals import forgotten_events, not_failed, unknown_job
from ragline.jobstores.sql_accepting import Accepting, room
from ragline.jobstores.sql_outbox import SqlOutbox
from ragline.jobstores.tables import jobs
from ragline.types import (
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
    delivery_host,
    delivery_id,
)

MOST_ACCEPTED = 256
"""Orders that are looked at together."""

MOST_FORGOTTEN = 500
"""Jobs in one commit of upkeep: others write between two."""

MOST_IDS = 500
"""In one statement."""

BEYOND_S = 3600.0
"""No lease is longer, and no job is accepted in the future: what says otherwise was written before the clock went back."""

_LISTED = [column for column in jobs.c if column.name != "answer"]


class SqlJobStore(SqlOutbox):
    """See `protocols.JobStore`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, clock)
        accepting = Accepting(self._now, database.say)

        async def accept(batch: list[tuple[JobOrder, JobLimits]]) -> Sequence[tuple[Job, bool] | Exception]:
            return await database.write(lambda connection: accepting.all(connection, batch))

        self._accept: Coalescer[tuple[JobOrder, JobLimits], tuple[Job, bool]] = Coalescer(accept, most=MOST_ACCEPTED)

    @classmethod
    async def open(cls, url: str, clock: Clock, queries: Queries | None = None) -> SqlJobStore:
        """Raises ConfigurationError, EngineUnavailable, as `Database.open`."""
        database = await Database.open(url, SCHEMA, queries)
        try:
            if database.alone:  # what a killed process held is due again, at once
                await database.write(lambda connection: connection.execute(rows.END_LEASES).rowcount)
        except BaseException:
            await database.aclose()
            raise
        return cls(database, clock)

    async def accept(self, order: JobOrder, limits: JobLimits) -> tuple[Job, bool]:
        return await self._accept((order, limits))

    async def get(self, id: str) -> Job:
        row = await self._database.read(lambda c: c.execute(rows.LOOK, {"which": id}).first())
        if row is None:
            raise unknown_job(id)
        return rows.job_of(row)

    async def page(self, *, principal: str | None, state: JobState | None, most: int, before: str | None) -> list[Job]:
        chosen = select(*_LISTED).order_by(jobs.c.id.desc()).limit(most)
        if principal is not None:
            chosen = chosen.where(jobs.c.principal == principal)
        if state is not None:
            chosen = chosen.where(jobs.c.state == state.value)
        if before is not None:
            chosen = chosen.where(jobs.c.id < before)
        found = await self._database.read(lambda c: c.execute(chosen.add_columns(_NO_ANSWER)).all())
        return [rows.job_of(row) for row in found]

    # ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(self, queue: QueueName, *, most: int, lease_s: float) -> list[Job]:
        def due(connection: Connection) -> bool:
            given = {"queue": queue, "now": self._now(connection), "most": 1}
            return connection.execute(rows.IS_DUE, given).first() is not None

        def work(connection: Connection) -> list[Job]:
            now = self._now(connection)
            found = connection.execute(rows.DUE_LOCKED, {"queue": queue, "now": now, "most": most}).all()
            stage = JobState.RETRIEVING if queue == "retrieval" else JobState.GENERATING
            told = [_of_claim(row, queue) for row in found]
            return self._claimed(connection, found, told, now, now + lease_s, announced=queue, state=stage)

        if most < 1 or not await self._database.read(due):
            return []
        return await self._database.apart(work)

    async def claim_overdue(self, *, most: int, lease_s: float) -> list[Job]:
        def due(connection: Connection) -> bool:
            return connection.execute(rows.IS_OVERDUE, {"now": self._now(connection), "most": 1}).first() is not None

        def work(connection: Connection) -> list[Job]:
            now = self._now(connection)
            found = connection.execute(rows.OVERDUE_LOCKED, {"now": now, "most": most}).all()
            nothing: list[list[NewEvent]] = [[] for _ in found]
            return self._claimed(connection, found, nothing, now, now + lease_s, announced="overdue", state=None)

        return await self._database.apart(work) if await self._database.read(due) else []

    async def renew(self, id: str, attempt: int, *, lease_s: float) -> bool:
        return await self._lease(id, attempt, lease_s)

    async def release(self, id: str, attempt: int, *, after_s: float) -> bool:
        return await self._lease(id, attempt, after_s)

    async def append(self, id: str, attempt: int, events: Sequence[NewEvent]) -> bool:
        shows = {"token": 1, "restarted": 0}
        said = [shows[event.name] for event in events if event.name in shows]

        def work(connection: Connection) -> bool:
            given = {"which": id, "mine": attempt, "many": len(events), "shows": said[-1] if said else -1}
            newest = connection.execute(rows.APPEND, given).scalar()
            if newest is None:
                return False
            self._tell(connection, id, newest, attempt, events, self._now(connection))
            return True

        return await self._database.write(work)

    async def retrieved(
        self, id: str, attempt: int, passages: bytes, *, ttl_s: float, events: Sequence[NewEvent]
    ) -> bool:
        def work(connection: Connection) -> bool:
            now = self._now(connection)
            given = {"which": id, "mine": attempt, "many": len(events), "now": now}
            newest = connection.execute(rows.RETRIEVED, given).scalar()
            if newest is None:
                return False
            connection.execute(rows.DROP, {"which": id})
            connection.execute(rows.KEEP, {"job": id, "data": passages, "until": now + ttl_s})
            self._tell(connection, id, newest, attempt, events, now)
            return True

        return await self._database.write(work)

    async def passages(self, id: str) -> bytes | None:
        return await self._database.read(
            lambda c: c.execute(rows.PASSAGES, {"which": id, "now": self._now(c)}).scalar()
        )

    # ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def finish(self, id: str, attempt: int, ending: Ending) -> bool:
        def work(connection: Connection) -> bool:
            row = connection.execute(rows.LOOK_MINE, {"which": id, "mine": attempt}).first()
            if row is None:
                return False
            self._end(connection, row, ending, attempt)
            return True

        return await self._database.write(work)

    async def cancel(self, id: str, ending: Ending) -> Job:
        def work(connection: Connection) -> Row[Any]:
            row = connection.execute(rows.LOOK_LOCKED, {"which": id}).first()
            if row is None:
                raise unknown_job(id)
            if row.queue is None:
                return row
            self._end(connection, row, ending, row.attempt + 1)
            return connection.execute(rows.LOOK, {"which": id}).one()

        return rows.job_of(await self._database.write(work))

    async def retry(self, id: str, *, deadline_s: float, limits: JobLimits) -> Job:
        def work(connection: Connection) -> Row[Any]:
            row = connection.execute(rows.LOOK_LOCKED, {"which": id}).first()
            if row is None:
                raise unknown_job(id)
            if row.state != JobState.FAILED:
                raise not_failed(id, row.state)
            now = self._now(connection)
            counts = {(queue, namespace): many for queue, namespace, many in connection.execute(rows.COUNTS)}
            full = room(connection, counts, row.namespace, limits, now)
            if isinstance(full, Overloaded):
                raise full
            values = {
                "state": JobState.QUEUED.value, "queue": "retrieval", "queued_at": now, "lease_until": 0.0,
                "attempt": row.attempt + 1, "retries": row.retries + 1, "announced": "", "shown": 0, "forgotten": 0,
                "events": row.events + 1, "created_at": now, "deadline_at": now + deadline_s, "retrieved_at": None,
                "finished_at": None, "reason": None, "detail": "", "next_step": "", "answer": None,
            }  # fmt: skip
            connection.execute(rows.UPDATE, {"which": id, **values})
            self._tell(connection, id, row.events + 1, 0, [NewEvent("queued")], now)
            return connection.execute(rows.LOOK, {"which": id}).one()

        return rows.job_of(await self._database.write(work))

    # ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def events(self, id: str, *, after: int, most: int) -> list[JobEvent]:
        def work(connection: Connection) -> list[JobEvent]:
            given = {"which": id, "after": after, "most": most}
            found = [JobEvent(*row) for row in connection.execute(rows.EVENTS, given)]
            if not found:
                about = connection.execute(rows.ABOUT, {"which": id}).first()
                if about is None:
                    raise unknown_job(id)
                if about.forgotten:
                    raise forgotten_events(id)
            return found

        return await self._database.read(work)

    async def latest(self, ids: Sequence[str]) -> dict[str, int]:
        def work(connection: Connection) -> dict[str, int]:
            parts = (ids[start : start + MOST_IDS] for start in range(0, len(ids), MOST_IDS))
            return {id: newest for part in parts for id, newest in connection.execute(rows.LATEST, {"ids": part})}

        return await self._database.read(work)

    def watch(self, told: Callable[[str | None], None]) -> None:
        self._database.listen(told)

    async def lengths(self) -> dict[QueueName, int]:
        found = await self._database.read(lambda c: {row[0]: row[1] for row in c.execute(rows.LENGTHS)})
        return {queue: found.get(queue, 0) for queue in QUEUES}

    async def hold(self, duty: str, *, holder: str, lease_s: float) -> bool:
        def work(connection: Connection) -> bool:
            now = self._now(connection)
            held = connection.execute(rows.HOLDER, {"which": duty}).first()
            if held is not None and held.holder != holder and held.until > now:
                return False
            connection.execute(rows.DROP_DUTY, {"which": duty})
            connection.execute(rows.TAKE_DUTY, {"duty": duty, "holder": holder, "until": now + lease_s})
            return True

        return await self._database.write(work)

    async def upkeep(self, *, events_s: float, jobs_s: float) -> int:
        await self._turn_back()
        await self._in_parts(rows.TO_FORGET, events_s, (rows.FORGET_EVENTS, rows.MARK_FORGOTTEN))
        forgotten = await self._in_parts(rows.TO_DELETE, jobs_s, (rows.FORGET_EVENTS, rows.DELETE_JOBS))

        def old(connection: Connection) -> None:
            now = self._now(connection)
            connection.execute(rows.DROP_OLD_PASSAGES, {"now": now})
            connection.execute(rows.DELETE_DELIVERIES, {"before": now - jobs_s})

        await self._database.write(old)
        return forgotten

    async def aclose(self) -> None:
        await self._accept.aclose()
        await self._database.aclose()

    # ── inside a commit ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _lease(self, id: str, attempt: int, s: float) -> bool:
        def work(connection: Connection) -> bool:
            given = {"which": id, "mine": attempt, "until": self._now(connection) + s if s else 0.0}
            return connection.execute(rows.LEASE, given).first() is not None

        return await self._database.write(work)

    def _claimed(
        self, connection: Connection, found: Sequence[Row[Any]], told: Sequence[Sequence[NewEvent]], now: float,
        until: float, *, announced: str, state: JobState | None,
    ) -> list[Job]:  # fmt: skip
        """The rows, each on its next attempt, after their events in `told`. `state` None: it stays."""
        if not found:
            return []
        claimed = [
            rows.job_of(
                row, attempt=row.attempt + 1, events=row.events + len(events), state=state or JobState(row.state)
            )
            for row, events in zip(found, told, strict=True)
        ]
        updates = [
            {
                "which": job.id, "its_attempt": job.attempt, "until": until, "its_state": job.state.value,
                "told": announced, "newest": job.events,
            }
            for job in claimed
        ]  # fmt: skip
        connection.execute(rows.CLAIM, updates)
        written = [
            row
            for job, events in zip(claimed, told, strict=True)
            for row in _event_rows(job.id, job.events, job.attempt, events, now)
        ]
        if written:
            connection.execute(rows.TELL, written)
            self._database.say(connection, sorted({row["job"] for row in written}))
        return claimed

    def _end(self, connection: Connection, row: Row[Any], ending: Ending, attempt: int) -> None:
        now, newest = self._now(connection), row.events + len(ending.events)
        values = {
            "state": ending.state.value, "queue": None, "attempt": attempt, "lease_until": 0.0, "events": newest,
            "finished_at": now, "retrieved_at": now if row.queue == "retrieval" else row.retrieved_at,
            "reason": ending.reason, "detail": ending.detail, "next_step": ending.next_step, "answer": ending.answer,
        }  # fmt: skip
        connection.execute(rows.UPDATE, {"which": row.id, **values})
        connection.execute(rows.DROP, {"which": row.id})
        if row.webhook is not None and ending.webhook is not None:
            delivery = {
                "id": delivery_id(row.id, row.retries), "job": row.id, "principal": row.principal, "url": row.webhook,
                "host": delivery_host(row.webhook), "body": ending.webhook, "attempt": 0, "spent": 0, "state": "waiting",
                "created_at": now, "due_at": now, "status": None, "error": "",
            }  # fmt: skip
            connection.execute(rows.PUT_OUT, delivery)
        self._tell(connection, row.id, newest, attempt, ending.events, now)

    def _tell(
        self, connection: Connection, id: str, newest: int, attempt: int, events: Sequence[NewEvent], now: float
    ) -> None:
        """`newest`: id of the last of them."""
        if not events:
            return
        connection.execute(rows.TELL, _event_rows(id, newest, attempt, events, now))
        self._database.say(connection, [id])

    async def _in_parts(self, which: Any, older_s: float, then: Sequence[Any]) -> int:
        """Do `then` to the jobs that `which` finds, some at a time."""
        total = 0

        def work(connection: Connection) -> int:
            given = {"before": self._now(connection) - older_s, "most": MOST_FORGOTTEN}
            ids = list(connection.execute(which, given).scalars())
            for statement in then if ids else ():
                connection.execute(statement, {"ids": ids})
            return len(ids)

        while done := await self._database.write(work):
            total += done
        return total

    async def _turn_back(self) -> None:
        def work(connection: Connection) -> int:
            now = self._now(connection)
            return connection.execute(rows.TURN_BACK, {"now": now, "beyond": now + BEYOND_S}).rowcount

        await self._database.write(work)


_NO_ANSWER = literal(None).label("answer")


def _event_rows(id: str, newest: int, attempt: int, events: Sequence[NewEvent], now: float) -> list[dict[str, Any]]:
    """`newest`: id of the last of them."""
    return [
        {"job": id, "id": number, "name": event.name, "data": event.data, "attempt": attempt, "at": now}
        for number, event in enumerate(events, start=newest - len(events) + 1)
    ]


def _of_claim(row: Row[Any], queue: QueueName) -> list[NewEvent]:
    told: list[NewEvent] = []
    if row.announced != queue:
        told.append(NewEvent("retrieving" if queue == "retrieval" else "generating"))
    if row.shown and queue == "generation":
        told.append(NewEvent("restarted", WORKER_LOST))
    return told
