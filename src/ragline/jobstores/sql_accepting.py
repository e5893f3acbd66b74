"""How orders become jobs: the ones that wait together are looked at together, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row

from ragline.errors import Overloaded
from ragline.jobstores import sql_rows as rows
from ragline.jobstores.refusals import RATE_OVER_S, full_queue, other_order
from ragline.serialisation import dump_request
from ragline.types import IDEMPOTENCY_S, QUEUES, Job, JobLimits, JobOrder, JobState

Counts = MutableMapping[tuple[str, str], int]
"""(queue, namespace) → jobs in it."""


class Accepting:
    def __init__(self, now: Callable[[Connection], float], say: Callable[[Connection, Sequence[str]], None]) -> None:
        self._now = now
        self._say = say

    def all(
        self, connection: Connection, batch: Sequence[tuple[JobOrder, JobLimits]]
    ) -> list[tuple[Job, bool] | Exception]:
        """What became of each order, as `JobStore.accept` returns or raises it."""
        now = self._now(connection)
        known = self._known(connection, [order for order, _ in batch])
        counts: Counts = {(queue, namespace): many for queue, namespace, many in connection.execute(rows.COUNTS)}
        made: list[dict[str, Any]] = []
        outdated: list[str] = []
        results: list[tuple[Job, bool] | Exception] = []
        for order, limits in batch:
            result = self._one(connection, order, limits, known, counts, outdated, now)
            results.append(result)
            if isinstance(result, tuple) and result[1]:
                made.append(_row(order, result[0], now))
        if outdated:
            connection.execute(rows.FREE_KEYS, {"ids": outdated})
        if made:
            connection.execute(rows.INSERT, made)
            connection.execute(rows.TELL, [_queued(one["id"], now) for one in made])
            self._say(connection, [one["id"] for one in made])
        return results

    def _known(self, connection: Connection, orders: Sequence[JobOrder]) -> dict[tuple[str, str], tuple[Job, str]]:
        """(principal, key) → the job that has it, and its fingerprint."""
        keyed = [order for order in orders if order.idempotency_key is not None]
        if not keyed:
            return {}
        given = {"keys": [order.idempotency_key for order in keyed], "principals": [order.principal for order in keyed]}
        found: Sequence[Row[Any]] = connection.execute(rows.KNOWN, given).all()
        return {(row.principal, row.idempotency_key): (rows.job_of(row), row.fingerprint) for row in found}

    def _one(
        self, connection: Connection, order: JobOrder, limits: JobLimits,
        known: dict[tuple[str, str], tuple[Job, str]], counts: Counts, outdated: list[str], now: float,
    ) -> tuple[Job, bool] | Exception:  # fmt: skip
        key = (order.principal, order.idempotency_key) if order.idempotency_key is not None else None
        if key in known:
            job, fingerprint = known[key]
            if job.created_at > now - IDEMPOTENCY_S:
                return (job, False) if fingerprint == order.fingerprint else other_order(job.id)
        full = room(connection, counts, order.request.namespace, limits, now)
        if full is not None:
            return full
        if key in known:
            outdated.append(known[key][0].id)
        job = Job(
            id=order.id, principal=order.principal, request=order.request, webhook=order.webhook,
            traceparent=order.traceparent,
            state=JobState.QUEUED, queue="retrieval", attempt=0, retries=0, events=1, created_at=now,
            deadline_at=now + order.deadline_s,
        )  # fmt: skip
        if key is not None:
            known[key] = (job, order.fingerprint)
        place = ("retrieval", order.request.namespace)
        counts[place] = counts.get(place, 0) + 1
        return job, True


def room(connection: Connection, counts: Counts, namespace: str, limits: JobLimits, now: float) -> Overloaded | None:
    """None: there is room for one more of `namespace`, in both queues."""
    for queue in QUEUES:
        waiting = sum(many for (which, _), many in counts.items() if which == queue)
        own = counts.get((queue, namespace), 0)
        if waiting >= limits.most:
            whose, holds, over = None, waiting, waiting - limits.most + 1
        elif own >= limits.of_namespace:
            whose, holds, over = namespace, own, own - limits.of_namespace + 1
        else:
            continue
        given = {"since": now - RATE_OVER_S, "namespace": whose or ""}
        left = connection.execute(rows.LEFT[queue], given).scalar_one()
        return full_queue(queue, whose, holds=holds, over=over, left=left)
    return None


def _row(order: JobOrder, job: Job, now: float) -> dict[str, Any]:
    return {
        "id": job.id, "principal": job.principal, "namespace": job.request.namespace,
        "request": dump_request(job.request, job.traceparent).decode(), "fingerprint": order.fingerprint,
        "idempotency_key": order.idempotency_key, "webhook": job.webhook, "state": job.state.value, "queue": job.queue,
        "queued_at": now, "lease_until": 0.0, "attempt": 0, "retries": 0, "events": 1, "announced": "", "shown": 0,
        "created_at": now, "deadline_at": job.deadline_at, "retrieved_at": None, "finished_at": None, "forgotten": 0,
        "reason": None, "detail": "", "next_step": "", "answer": None,
    }  # fmt: skip


def _queued(id: str, now: float) -> dict[str, Any]:
    return {"job": id, "id": 1, "name": "queued", "data": "{}", "attempt": 0, "at": now}
