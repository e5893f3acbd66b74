"""The statements of the SQL job store, and how rows become jobs. Built once: building one costs more than running it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BindParameter,
    Row,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from ragline.jobstores.tables import OPEN, deliveries, duties, events, jobs, passages
from ragline.serialisation import load_request, load_traceparent
from ragline.types import Job, JobState, WebhookDelivery

CLOCK = select(literal_column("extract(epoch from clock_timestamp())").cast(jobs.c.created_at.type))
"""The server's, where there is one: of all processes the same."""

_WHICH = jobs.c.id == bindparam("which")
_MINE = (_WHICH, jobs.c.attempt == bindparam("mine"), OPEN)

# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

INSERT = insert(jobs)
UPDATE = update(jobs).where(_WHICH)
LOOK = select(jobs).where(_WHICH)
LOOK_LOCKED = LOOK.with_for_update()
KNOWN = select(jobs).where(
    jobs.c.idempotency_key.in_(bindparam("keys", expanding=True)),
    jobs.c.principal.in_(bindparam("principals", expanding=True)),
)
FREE_KEYS = update(jobs).where(jobs.c.id.in_(bindparam("ids", expanding=True))).values(idempotency_key=None)
COUNTS = select(jobs.c.queue, jobs.c.namespace, func.count()).where(OPEN).group_by(jobs.c.queue, jobs.c.namespace)
LENGTHS = select(jobs.c.queue, func.count()).where(OPEN).group_by(jobs.c.queue)
LATEST = select(jobs.c.id, jobs.c.events).where(jobs.c.id.in_(bindparam("ids", expanding=True)))

_OF_NAMESPACE = or_(bindparam("namespace") == "", jobs.c.namespace == bindparam("namespace"))
LEFT = {
    "retrieval": select(func.count()).where(jobs.c.retrieved_at > bindparam("since"), _OF_NAMESPACE),
    "generation": select(func.count()).where(
        jobs.c.finished_at > bindparam("since"), jobs.c.retrieved_at < jobs.c.finished_at, _OF_NAMESPACE
    ),
}
"""How many jobs have left a queue `since`; of one namespace, where one is given."""

DUE = (
    select(jobs)
    .where(
        OPEN, jobs.c.queue == bindparam("queue"), jobs.c.lease_until <= bindparam("now"),
        jobs.c.deadline_at > bindparam("now"),
    )
    .order_by(jobs.c.queued_at, jobs.c.id)
    .limit(bindparam("most"))
)  # fmt: skip
DUE_LOCKED = DUE.with_for_update(skip_locked=True)  # where there are other workers; SQLite has none, and leaves it out
IS_DUE = DUE.with_only_columns(literal(1)).order_by(None)
OVERDUE = (
    select(jobs)
    .where(
        OPEN, jobs.c.deadline_at <= bindparam("now"),
        or_(jobs.c.announced != "overdue", jobs.c.lease_until <= bindparam("now")),
    )
    .order_by(jobs.c.deadline_at)
    .limit(bindparam("most"))
)  # fmt: skip
OVERDUE_LOCKED = OVERDUE.with_for_update(skip_locked=True)
IS_OVERDUE = OVERDUE.with_only_columns(literal(1)).order_by(None)
CLAIM = UPDATE.values(
    attempt=bindparam("its_attempt"), lease_until=bindparam("until"), state=bindparam("its_state"),
    announced=bindparam("told"), shown=0, events=bindparam("newest"),
)  # fmt: skip

LEASE = update(jobs).where(*_MINE).values(lease_until=bindparam("until")).returning(jobs.c.id)
APPEND = (
    update(jobs)
    .where(*_MINE)
    .values(
        events=jobs.c.events + bindparam("many"),
        shown=case((bindparam("shows") < 0, jobs.c.shown), else_=bindparam("shows")),
    )
    .returning(jobs.c.events)
)
RETRIEVED = (
    update(jobs)
    .where(*_MINE)
    .values(
        events=jobs.c.events + bindparam("many"), state=JobState.GENERATING.value, queue="generation",
        queued_at=bindparam("now"), retrieved_at=bindparam("now"), lease_until=0.0, announced="", shown=0,
    )
    .returning(jobs.c.events)
)  # fmt: skip
LOOK_MINE = select(jobs).where(*_MINE).with_for_update()

END_LEASES = update(jobs).where(OPEN).values(lease_until=0.0)
TURN_BACK = (
    update(jobs)
    .where(OPEN, or_(jobs.c.created_at > bindparam("beyond"), jobs.c.lease_until > bindparam("beyond")))
    .values(
        lease_until=0.0,
        deadline_at=case(
            (
                jobs.c.created_at > bindparam("beyond"),
                bindparam("now") + (jobs.c.deadline_at - jobs.c.created_at),
            ),
            else_=jobs.c.deadline_at,
        ),
        created_at=case((jobs.c.created_at > bindparam("beyond"), bindparam("now")), else_=jobs.c.created_at),
        queued_at=case((jobs.c.queued_at > bindparam("beyond"), bindparam("now")), else_=jobs.c.queued_at),
    )
)
"""Of a clock that went back: leases that nobody can have been given, deadlines that nobody has set."""

# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TELL = insert(events)
EVENTS = (
    select(events.c.id, events.c.name, events.c.data, events.c.attempt, events.c.at)  # as `JobEvent` has them
    .where(events.c.job == bindparam("which"), events.c.id > bindparam("after"))
    .order_by(events.c.id)
    .limit(bindparam("most"))
)
ABOUT = select(jobs.c.forgotten).where(_WHICH)

# ── passages ─────────────────────────────────────────────────────────────────────────────────────────────────────────

KEEP = insert(passages)
DROP = delete(passages).where(passages.c.job == bindparam("which"))
PASSAGES = select(passages.c.data).where(passages.c.job == bindparam("which"), passages.c.until > bindparam("now"))

# ── upkeep ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_ENDED_BEFORE = jobs.c.finished_at <= bindparam("before")
TO_FORGET = (
    select(jobs.c.id).where(_ENDED_BEFORE, jobs.c.forgotten == 0).order_by(jobs.c.finished_at).limit(bindparam("most"))
)
TO_DELETE = select(jobs.c.id).where(_ENDED_BEFORE).order_by(jobs.c.finished_at).limit(bindparam("most"))
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
FORGET_EVENTS = delete(events).where(events.c.job.in_(_IDS))
MARK_FORGOTTEN = update(jobs).where(jobs.c.id.in_(_IDS)).values(forgotten=1)
DELETE_JOBS = delete(jobs).where(jobs.c.id.in_(_IDS))
DROP_OLD_PASSAGES = delete(passages).where(passages.c.until <= bindparam("now"))
DELETE_DELIVERIES = delete(deliveries).where(
    deliveries.c.created_at <= bindparam("before"), deliveries.c.state != "waiting"
)

_DUTY = duties.c.duty == bindparam("which")
HOLDER = select(duties.c.holder, duties.c.until).where(_DUTY)
TAKE_DUTY = insert(duties)
DROP_DUTY = delete(duties).where(_DUTY)

# ── deliveries ───────────────────────────────────────────────────────────────────────────────────────────────────────

PUT_OUT = insert(deliveries)
_WAITS = deliveries.c.state == "waiting"
_hosts = select(func.min(deliveries.c.host).label("host")).where(_WAITS).cte("hosts", recursive=True)
_hosts = _hosts.union_all(
    select(
        select(func.min(deliveries.c.host)).where(_WAITS, deliveries.c.host > _hosts.c.host).scalar_subquery()
    ).where(_hosts.c.host.is_not(None))
)
"""Each host to which something waits. From one to the next by the index: however much waits, the hosts are what it takes."""

_oldest = select(func.min(deliveries.c.due_at)).where(_WAITS, deliveries.c.host == _hosts.c.host).scalar_subquery()
HOSTS_DUE = (
    select(_hosts.c.host)
    .where(_hosts.c.host.not_in(bindparam("busy", expanding=True)), _oldest <= bindparam("now"))
    .order_by(_oldest, _hosts.c.host)
    .limit(bindparam("most"))
)
DELIVERIES_DUE_LOCKED = (
    select(deliveries)
    .where(_WAITS, deliveries.c.host == bindparam("host"), deliveries.c.due_at <= bindparam("now"))
    .order_by(deliveries.c.due_at, deliveries.c.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_THAT = deliveries.c.id == bindparam("which")
CLAIM_DELIVERY = update(deliveries).where(_THAT).values(attempt=bindparam("its_attempt"), due_at=bindparam("until"))
SETTLE_DELIVERY = (
    update(deliveries)
    .where(_THAT, deliveries.c.attempt == bindparam("mine"), _WAITS)
    .values(
        state=bindparam("its_state"), due_at=bindparam("until"), status=bindparam("its_status"), error=bindparam("why")
    )
    .returning(deliveries.c.id)
)
REPLAY = (
    update(deliveries)
    .where(_THAT, or_(bindparam("whose") == "", deliveries.c.principal == bindparam("whose")))
    .values(state="waiting", due_at=bindparam("now"), spent=deliveries.c.attempt)
    .returning(deliveries)
)


def job_of(row: Row[Any], **instead: Any) -> Job:
    values: dict[str, Any] = {
        "id": row.id, "principal": row.principal, "request": load_request(row.request), "webhook": row.webhook,
        "state": JobState(row.state), "queue": row.queue, "attempt": row.attempt, "retries": row.retries,
        "events": row.events, "created_at": row.created_at, "deadline_at": row.deadline_at,
        "finished_at": row.finished_at, "reason": row.reason, "detail": row.detail, "next_step": row.next_step,
        "answer": row.answer, "traceparent": load_traceparent(row.request),
    }  # fmt: skip
    return Job(**(values | instead))


def delivery_of(row: Row[Any], **instead: Any) -> WebhookDelivery:
    values: dict[str, Any] = {
        "id": row.id, "job": row.job, "principal": row.principal, "url": row.url, "host": row.host, "body": row.body,
        "attempt": row.attempt, "spent": row.spent, "state": row.state, "created_at": row.created_at,
        "due_at": row.due_at, "status": row.status, "error": row.error,
    }  # fmt: skip
    return WebhookDelivery(**(values | instead))
