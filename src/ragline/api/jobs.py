"""Questions that are answered later: accept one, look at it, follow its events, cancel it, begin it again."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ragline.api.access import Reader, allow
from ragline.api.models import JobOut, JobsOut, QueryAccepted, QueryBody, RetryBody
from ragline.errors import InvalidRequest, RaglineError
from ragline.jobs import Question
from ragline.serialisation import load_answer
from ragline.system import System
from ragline.types import Job, JobEvent, JobState, SearchRequest
from ragline.wire import answer_out

router = APIRouter(prefix="/v1", tags=["jobs"])
log = structlog.get_logger()

MOST_KEY_CHARS = 255

ALIVE = ": alive\n\n"
"""A comment, which clients skip: proxies must not take a silent stream for a dead one."""

STREAM = {200: {"content": {"text/event-stream": {}}, "description": "The job's events, until it has ended."}}
IdempotencyKey = Annotated[str | None, Header(description="The same key and body within 24 h are the same job.")]
LastEventId = Annotated[str | None, Header(description="Go on behind this event, on any replica.")]


@router.post("/queries", status_code=202, response_model=QueryAccepted)
async def accept(
    body: QueryBody, request: Request, caller: Reader, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Accept a question, durably, to be answered later.

    Follow `events_url`, or look at the job in `Location`. A queue that is full is a 429 with Retry-After.
    """
    allow(caller, "read", body.namespace)
    system: System = request.app.state.system
    wanted = SearchRequest(
        query=body.query, namespace=body.namespace, groups=caller.groups, top_k=body.top_k, filters=body.filters,
        min_sequence=body.min_sequence,
    )  # fmt: skip
    _check(body, idempotency_key, most_s=system.settings.jobs.max_deadline_s)
    question = Question(wanted, body.webhook, body.deadline_s, idempotency_key)
    job, _ = await system.jobs.accept(caller, question)
    accepted = {"job_id": job.id, "state": job.state.value, "events_url": _events_url(job)}
    return JSONResponse(accepted, 202, headers={"Location": f"/v1/jobs/{job.id}"})


@router.get("/jobs", response_model=JobsOut)
async def list_jobs(
    request: Request, caller: Reader, state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$", description="`next` of the page before")] = None,
) -> dict[str, Any]:  # fmt: skip
    """Your jobs, newest first, without their answers."""
    system: System = request.app.state.system
    found, last = await system.jobs.page(caller, state=state, most=limit, before=before)
    return {"jobs": [job_out(job) for job in found], "next": last}


@router.get("/jobs/{id}", response_model=JobOut)
async def show_job(id: str, request: Request, caller: Reader) -> JSONResponse:
    """Where it stands; once it is done, its answer."""
    system: System = request.app.state.system
    return JSONResponse(job_out(await system.jobs.get(caller, id)))


@router.get("/jobs/{id}/events", response_model=None, responses=STREAM)  # type: ignore[arg-type]
async def follow(id: str, request: Request, caller: Reader, last_event_id: LastEventId = None) -> Response:
    """Server-sent events, from the first one or from behind `Last-Event-ID`, until the job has ended; then 204.

    `queued`, `retrieving`, `passages` (where they are from), `generating`, `token` (text to append), `restarted` (what was shown
    does not count any more), and last `done` (the whole answer) or `failed` (`reason`, `detail`, `next_step`).
    """
    system: System = request.app.state.system
    job = await system.jobs.get(caller, id)
    after = _after(job, last_event_id)
    if job.queue is None and after == job.events:
        return Response(status_code=204)  # by which a browser's EventSource knows not to come back
    events = system.job_watching.follow(id, after=after)
    first = await anext(events)  # what is wrong is still an ordinary error response
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(id, first, events), media_type="text/event-stream", headers=headers)


@router.delete("/jobs/{id}", response_model=JobOut)
async def cancel(id: str, request: Request, caller: Reader) -> JSONResponse:
    """End it; whoever is at it stops. One that has ended stays as it is."""
    system: System = request.app.state.system
    return JSONResponse(job_out(await system.jobs.cancel(caller, id)))


@router.post("/jobs/{id}/retry", status_code=202, response_model=QueryAccepted)
async def retry(id: str, request: Request, caller: Reader, body: RetryBody | None = None) -> JSONResponse:
    """Begin a failed job again; it keeps its id, and its events go on."""
    system: System = request.app.state.system
    deadline_s = body.deadline_s if body else None
    _check_deadline(deadline_s, system.settings.jobs.max_deadline_s)
    job = await system.jobs.retry(caller, id, deadline_s=deadline_s)
    accepted = {"job_id": job.id, "state": job.state.value, "events_url": _events_url(job)}
    return JSONResponse(accepted, 202, headers={"Location": f"/v1/jobs/{job.id}"})


def job_out(job: Job) -> dict[str, Any]:
    """As `JobOut`; the answer is word for word what the event `done` and the webhook say."""
    error = None
    if job.reason is not None:
        error = {"reason": job.reason, "detail": job.detail, "next_step": job.next_step}
    return {
        "job_id": job.id, "state": job.state.value, "query": job.request.query, "namespace": job.request.namespace,
        "top_k": job.request.top_k, "filters": dict(job.request.filters), "min_sequence": job.request.min_sequence,
        "webhook": job.webhook, "attempt": job.attempt, "retries": job.retries, "created_at": job.created_at,
        "deadline_at": job.deadline_at, "finished_at": job.finished_at, "events_url": _events_url(job), "error": error,
        "answer": answer_out(load_answer(job.answer)) if job.answer is not None else None,
    }  # fmt: skip


async def _stream(
    id: str, first: Sequence[JobEvent], events: AsyncGenerator[Sequence[JobEvent], None]
) -> AsyncGenerator[str, None]:
    """A store that goes away ends the stream: its client comes back with the last id that it has."""
    yield _written(first)
    try:
        async with aclosing(events):
            async for found in events:
                yield _written(found)
    except RaglineError as error:
        log.warning("a stream of events broke off", job=id, error=error.message)
    except Exception:  # the status is sent; a defect must be seen
        log.exception("defect in a stream of events", job=id)


def _written(events: Sequence[JobEvent]) -> str:
    return "".join(f"id: {e.id}\nevent: {e.name}\ndata: {e.data}\n\n" for e in events) or ALIVE


def _events_url(job: Job) -> str:
    return f"/v1/jobs/{job.id}/events"


def _after(job: Job, last_event_id: str | None) -> int:
    """Raises InvalidRequest."""
    if not last_event_id:
        return 0
    if not re.fullmatch(r"[0-9]{1,9}", last_event_id, re.ASCII):
        raise InvalidRequest(
            "Last-Event-ID is not a number of an event.",
            next_step="Send the `id` of the last event that you have, or leave the header out to begin anew.",
            field="Last-Event-ID",
        )
    if int(last_event_id) > job.events:
        raise InvalidRequest(
            f"Last-Event-ID is {last_event_id}, and job {job.id} has told {job.events} events so far.",
            next_step="Is it another job's? Leave the header out to begin anew.",
            field="Last-Event-ID",
        )
    return int(last_event_id)


def _check(body: QueryBody, key: str | None, *, most_s: float) -> None:
    _check_deadline(body.deadline_s, most_s)
    if key is not None and not 1 <= len(key) <= MOST_KEY_CHARS:
        raise InvalidRequest(
            f"Idempotency-Key has {len(key)} characters; 1 to {MOST_KEY_CHARS} are allowed.",
            next_step="Send a UUID, for example, or leave it out.",
            field="Idempotency-Key",
        )


def _check_deadline(deadline_s: float | None, most_s: float) -> None:
    if deadline_s is not None and deadline_s > most_s:
        raise InvalidRequest(
            f"deadline_s is {deadline_s:g}; the most is {most_s:g}.",
            next_step="Ask for less, or raise jobs.max_deadline_s.",
            field="deadline_s",
        )
