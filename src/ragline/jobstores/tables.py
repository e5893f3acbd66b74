"""The tables of the jobs. Times are seconds since 1970, by the clock of the database where it has one."""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text, column

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("principal", Text, nullable=False),
    Column("namespace", String(63), nullable=False),
    Column("request", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("idempotency_key", Text),
    Column("webhook", Text),
    Column("state", String(16), nullable=False),
    Column("queue", String(16)),
    Column("queued_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("events", Integer, nullable=False),
    Column("announced", String(16), nullable=False),  # queue whose first claim was told
    Column("shown", Integer, nullable=False),  # whether tokens stand there that count
    Column("created_at", Float, nullable=False),
    Column("deadline_at", Float, nullable=False),
    Column("retrieved_at", Float),  # when it left `retrieval`, to whatever
    Column("finished_at", Float),
    Column("forgotten", Integer, nullable=False),  # whether its events are
    Column("reason", String(32)),
    Column("detail", Text, nullable=False),
    Column("next_step", Text, nullable=False),
    Column("answer", LargeBinary),
)

OPEN = column("queue").is_not(None)
"""These rows wait or are leased; the partial indexes below hold nothing else."""

KEYED = column("idempotency_key").is_not(None)
ENDED = column("finished_at").is_not(None)

Index("ix_jobs_due", jobs.c.queue, jobs.c.queued_at, jobs.c.id, sqlite_where=OPEN, postgresql_where=OPEN)
Index("ix_jobs_lengths", jobs.c.queue, jobs.c.namespace, sqlite_where=OPEN, postgresql_where=OPEN)
Index("ix_jobs_deadlines", jobs.c.deadline_at, sqlite_where=OPEN, postgresql_where=OPEN)
Index(
    "uq_jobs_key", jobs.c.principal, jobs.c.idempotency_key, unique=True, sqlite_where=KEYED, postgresql_where=KEYED,
)  # fmt: skip
Index("ix_jobs_listing", jobs.c.principal, jobs.c.id)
Index("ix_jobs_retrieved", jobs.c.retrieved_at)
Index("ix_jobs_finished", jobs.c.finished_at, sqlite_where=ENDED, postgresql_where=ENDED)

passages = Table(
    "job_passages",
    metadata,
    Column("job", String(32), primary_key=True),
    Column("data", LargeBinary, nullable=False),
    Column("until", Float, nullable=False),
    Index("ix_job_passages_until", "until"),
)

events = Table(
    "job_events",
    metadata,
    Column("job", String(32), primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(16), nullable=False),
    Column("data", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

deliveries = Table(
    "job_deliveries",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job", String(32), nullable=False),
    Column("principal", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("spent", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("status", Integer),
    Column("error", Text, nullable=False),
)

WAITING = column("state") == "waiting"
Index(
    "ix_job_deliveries_due", deliveries.c.host, deliveries.c.due_at, deliveries.c.id,
    sqlite_where=WAITING, postgresql_where=WAITING,
)  # fmt: skip
Index("ix_job_deliveries_listing", deliveries.c.principal, deliveries.c.created_at)
Index("ix_job_deliveries_age", deliveries.c.created_at)

duties = Table(
    "job_duties",
    metadata,
    Column("duty", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", Float, nullable=False),
)
