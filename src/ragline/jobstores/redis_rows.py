"""How what lies in Redis becomes jobs, events and deliveries. Times lie there in whole microseconds, by the server's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ragline.serialisation import load_request, load_traceparent
from ragline.types import DeliveryState, EventName, Job, JobEvent, JobState, QueueName, WebhookDelivery

LISTED = (
    "id", "principal", "request", "webhook", "state", "queue", "attempt", "retries", "events", "created", "deadline",
    "finished", "reason", "detail", "next_step",
)  # fmt: skip
"""Of a job, all but its answer."""


def microseconds(s: float) -> int:
    return round(s * 1_000_000)


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """What a script has got from HGETALL."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def job_of(fields: Mapping[bytes, bytes]) -> Job:
    finished = fields.get(b"finished")
    return Job(
        id=_text(fields, b"id"), principal=_text(fields, b"principal"), request=load_request(fields[b"request"]),
        webhook=_text(fields, b"webhook") or None, state=JobState(_text(fields, b"state")),
        queue=cast("QueueName | None", _text(fields, b"queue") or None), attempt=int(fields[b"attempt"]),
        retries=int(fields[b"retries"]), events=int(fields[b"events"]), created_at=seconds(fields[b"created"]),
        deadline_at=seconds(fields[b"deadline"]), finished_at=None if finished is None else seconds(finished),
        reason=_text(fields, b"reason") if b"reason" in fields else None, detail=_text(fields, b"detail"),
        next_step=_text(fields, b"next_step"), answer=fields.get(b"answer"),
        traceparent=load_traceparent(fields[b"request"]),
    )  # fmt: skip


def listed_of(values: Sequence[bytes | None]) -> Job | None:
    """Of the fields `LISTED`; None: it has gone since."""
    found = {name.encode(): value for name, value in zip(LISTED, values, strict=True) if value is not None}
    return job_of(found) if b"id" in found else None


def event_of(id: int, line: bytes) -> JobEvent:
    name, attempt, at, data = line.split(b"\n", 3)
    return JobEvent(id, cast(EventName, name.decode()), data.decode(), int(attempt), seconds(at))


def delivery_of(fields: Mapping[bytes, bytes]) -> WebhookDelivery:
    state = cast(DeliveryState, _text(fields, b"state"))
    status = _text(fields, b"status")
    return WebhookDelivery(
        id=_text(fields, b"id"), job=_text(fields, b"job"), principal=_text(fields, b"principal"),
        url=_text(fields, b"url"), host=_text(fields, b"host"), body=fields[b"body"], attempt=int(fields[b"attempt"]),
        spent=int(fields[b"spent"]), state=state,
        created_at=seconds(fields[b"created"]), due_at=seconds(fields[b"due"]),
        status=int(status) if status else None, error=_text(fields, b"error"),
    )  # fmt: skip


def _text(fields: Mapping[bytes, Any], name: bytes) -> str:
    return cast(bytes, fields.get(name, b"")).decode()


def seconds(microseconds: bytes) -> float:
    return int(microseconds) / 1_000_000
