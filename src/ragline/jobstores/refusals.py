"""What every job store, and the job path, say when they refuse: the same words and the same times, whatever the engine."""

from __future__ import annotations

from ragline.errors import Conflict, Gone, InvalidRequest, NotFound, Overloaded
from ragline.types import QueueName

RATE_OVER_S = 60.0
"""How long the look back is from which the rate of a queue is told."""

MOST_WAIT_S = 600.0


def unknown_job(id: str) -> NotFound:
    """Not there, or somebody else's."""
    return NotFound(f"Job {id[:80]!r} does not exist.", next_step="List yours with GET /v1/jobs.")


def unknown_delivery(id: str) -> NotFound:
    return NotFound(f"Delivery {id[:80]!r} does not exist.", next_step="List them with `ragline webhooks list`.")


def forgotten_events(id: str) -> Gone:
    return Gone(
        f"The events of job {id} are kept no longer.", next_step=f"Read its answer with GET /v1/jobs/{id}."
    )  # fmt: skip


def not_failed(id: str, state: str) -> Conflict:
    return Conflict(
        f"Job {id} is {state}; only a failed one is begun again.",
        next_step="Watch its events, or ask the question as a new job.",
    )


def other_order(job: str) -> InvalidRequest:
    return InvalidRequest(
        f"This Idempotency-Key belongs to job {job}, which was another request, or of another key's groups.",
        next_step="Send the same body again for that job, or another Idempotency-Key for a new one.",
        field="Idempotency-Key",
    )


def full_queue(queue: QueueName, namespace: str | None, *, holds: int, over: int, left: int) -> Overloaded:
    """`namespace` None: of all. It holds `holds` jobs, `over` too many, and `left` have left it in `RATE_OVER_S`."""
    if namespace is None:
        what, bound = f"The queue {queue!r} is full: {holds} jobs", "jobs.max_waiting"
    else:
        what = f"Namespace {namespace!r} has its share of the queue {queue!r}: {holds} jobs"
        bound = "jobs.namespace_share"
    after_s = over * RATE_OVER_S / left if left else RATE_OVER_S
    return Overloaded(
        f"{what}.", next_step=f"Send it again then; `{bound}` is the bound.",
        retry_after_s=min(max(after_s, 1.0), MOST_WAIT_S),
    )  # fmt: skip
