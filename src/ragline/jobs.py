"""THE JOB PATH: a question that is answered later.

    accept ─▶ [queue retrieval] ─▶ retrieve: passages ─▶ [queue generation] ─▶ generate: answer ─▶ events, webhook

The store holds the state machine, and each step here ends in one commit of it. A worker that is lost, cancelled or late has a
claim that is not the newest any more: what it has to say is refused, and it stops. The two stages are called by
`job_workers`; the same two functions serve `ragline up` and `ragline work`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from ragline import metrics, tracing
from ragline.answer import Answers, Piece, Restarted
from ragline.clock import Clock
from ragline.coalescing import Coalescer
from ragline.errors import EngineError, Overloaded, RaglineError
from ragline.jobstores.refusals import unknown_job
from ragline.protocols import JobQueue, JobStore, Searcher
from ragline.serialisation import dump_answer, dump_retrieved, load_retrieved
from ragline.settings import JobsSettings
from ragline.types import (
    Answer,
    Caller,
    Ending,
    Job,
    JobLimits,
    JobOrder,
    JobState,
    NewEvent,
    QueueName,
    Retrieved,
    SearchRequest,
)
from ragline.wire import answer_out, passage_out

log = structlog.get_logger()

FLUSH_S = 0.075
"""Between two commits of tokens: short enough to read along, and a tenth of the commits that single tokens would take."""

PASSAGES_OUTLAST_S = 60.0
"""How much longer than the job's deadline its passages are kept."""

LOOKS_AT_ONCE, MOST_LOOKS = 2, 256
"""Of the store, for whoever asks for a job, and in one turn: thousands that reconnect together must wait here, and not until the
store's own patience with callers is over. With the reads of events, fewer than a database has connections for readers."""

ID = re.compile("[0-9a-f]{32}")


class Lost(Exception):
    """The claim is not the newest any more, or the job has ended: whoever is at it stops."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a client asks for. `deadline_s` None: as the settings say."""

    request: SearchRequest
    webhook: str | None = None
    deadline_s: float | None = None
    idempotency_key: str | None = None


class Jobs:
    """Accepting, and what an owner may do with a job; `retrieve` and `generate` are for workers."""

    def __init__(
        self, *, store: JobStore, queue: JobQueue, search: Searcher, answers: Answers, clock: Clock,
        settings: JobsSettings, check_webhook: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        """`check_webhook`: raises InvalidRequest of a URL that must not be called."""
        self.store = store
        self._queue = queue
        self._search = search
        self.answers = answers
        self._clock = clock
        self._settings = settings
        self._check_webhook = check_webhook
        self._looks: Coalescer[str, Job] = Coalescer(self._look, most=MOST_LOOKS)
        self._limits = JobLimits(settings.max_waiting, max(1, int(settings.max_waiting * settings.namespace_share)))

    # ── for its owner ───────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, caller: Caller, question: Question) -> tuple[Job, bool]:
        """The job, durable, and whether it is new; an Idempotency-Key that is known gives the job it stands for.

        Raises:  InvalidRequest, NotFound: the namespace.  Overloaded.  EngineError: nothing is accepted.
        """
        await self._search.check(question.request)
        if question.webhook is not None and self._check_webhook:
            await self._check_webhook(question.webhook)
        order = JobOrder(
            id=f"{int(self._clock.now() * 1000):012x}{secrets.token_hex(10)}", principal=caller.principal,
            request=question.request, deadline_s=question.deadline_s or self._settings.deadline_s,
            fingerprint=_fingerprint(question), webhook=question.webhook, idempotency_key=question.idempotency_key,
            traceparent=tracing.traceparent(),
        )  # fmt: skip
        try:
            job, fresh = await self.store.accept(order, self._limits)
        except Overloaded:
            metrics.jobs_total.labels("refused").inc()
            raise
        metrics.jobs_total.labels("accepted" if fresh else "known").inc()
        if fresh:
            await self.notify("retrieval", job.id)
        return job, fresh

    async def get(self, caller: Caller, id: str) -> Job:
        """Raises NotFound, with the same words for a job that is somebody else's: see `may_read`."""
        job = await self._looks(id) if ID.fullmatch(id) else None
        if job is None or not may_read(caller, job):
            raise unknown_job(id)
        return job

    async def _look(self, ids: list[str]) -> list[Job | Exception]:
        """Those who ask for the same job share a read that begins when they have all come: it is never older than a question."""
        places = asyncio.Semaphore(LOOKS_AT_ONCE)

        async def look(id: str) -> Job | Exception:
            async with places:
                try:
                    return await self.store.get(id)
                except RaglineError as error:
                    return error

        distinct = list(dict.fromkeys(ids))
        found = dict(zip(distinct, await asyncio.gather(*map(look, distinct)), strict=True))
        return [found[id] for id in ids]

    async def page(
        self, caller: Caller, *, state: JobState | None, most: int, before: str | None
    ) -> tuple[list[Job], str | None]:
        """A page, and the id to go on from."""
        found = await self.store.page(principal=caller.principal, state=state, most=most, before=before)
        return [job for job in found if may_read(caller, job)], found[-1].id if len(found) == most else None

    async def cancel(self, caller: Caller, id: str) -> Job:
        """It ends `failed`, with the reason ``cancelled``; one that has ended stays as it is."""
        job = await self.get(caller, id)
        if job.queue is None:
            return job
        cancelled = await self.store.cancel(id, self.failed(job, "cancelled", "Its owner cancelled it.", AGAIN))
        if cancelled.reason == "cancelled":
            metrics.jobs_total.labels("cancelled").inc()
        return cancelled

    async def retry(self, caller: Caller, id: str, *, deadline_s: float | None) -> Job:
        """Raises NotFound; Conflict: it has not failed; Overloaded."""
        await self.get(caller, id)
        job = await self.store.retry(id, deadline_s=deadline_s or self._settings.deadline_s, limits=self._limits)
        await self.notify("retrieval", id)
        return job

    # ── the two stages ──────────────────────────────────────────────────────────────────────────────────────────────

    async def retrieve(self, job: Job) -> None:
        """Raises Lost; RaglineError: it was not retrieved for."""
        with metrics.stage({}, "retrieval", metrics.job_latency_ms):
            found = await self.answers.passages(job.request)
            left_s = max(0.0, job.deadline_at - self._clock.now())
            kept = await self.store.retrieved(
                job.id, job.attempt, dump_retrieved(found), ttl_s=left_s + PASSAGES_OUTLAST_S, events=[_passages(found)]
            )
        if not kept:
            raise Lost
        await self.notify("generation", job.id)

    async def generate(self, job: Job) -> None:
        """Raises Lost; RaglineError: it was not answered. A caller that cancels this stops the generator."""
        with metrics.stage({}, "generation", metrics.job_latency_ms):
            async with telling(self.store, job) as teller:
                found = await self._kept_passages(job)
                if found is None:
                    found = await self.answers.passages(job.request)
                    teller.tell(_passages(found))
                async with aclosing(self.answers.from_passages(job.request, found)) as events:
                    async for event in events:
                        match event:
                            case Piece():
                                teller.tell_text(event.text)
                            case Restarted():
                                teller.tell(NewEvent("restarted", _json({"reason": event.reason})))
                            case Answer():
                                await self._done(job, event, teller)

    async def end_overdue(self, *, most: int, lease_s: float) -> list[str]:
        """End jobs past their deadline, wherever they are. Returns their ids."""
        overdue = await self.store.claim_overdue(most=most, lease_s=lease_s)
        for job in overdue:
            where = "for its passages" if job.queue == "retrieval" else "for its answer"
            given_s = job.deadline_at - job.created_at
            words = f"It had {given_s:.0f} s (deadline_s), and was still waiting {where}."
            await self.fail(
                job, "deadline", words, "Ask again with a longer deadline_s, or once `queue_length` is shorter."
            )
        return [job.id for job in overdue]

    async def fail(self, job: Job, reason: str, detail: str, next_step: str) -> None:
        """Raises Lost."""
        if not await self.store.finish(job.id, job.attempt, self.failed(job, reason, detail, next_step)):
            raise Lost
        metrics.jobs_total.labels(reason).inc()
        log.info("job failed", job=job.id, reason=reason)

    async def notify(self, queue: QueueName, id: str) -> None:
        """Wake a worker up. A queue that is away costs a second: workers look by the clock, too."""
        try:
            await self._queue.notify(queue, id)
        except EngineError as error:
            log.warning("queue not told, the job is found by the clock", queue=queue, job=id, error=error.message)

    def failed(self, job: Job, reason: str, detail: str, next_step: str) -> Ending:
        error = {"reason": reason, "detail": detail, "next_step": next_step}
        return Ending(
            JobState.FAILED, (NewEvent("failed", _json(error)),), reason=reason, detail=detail, next_step=next_step,
            webhook=self._body(job, "job.failed", {"error": error}),
        )  # fmt: skip

    async def _kept_passages(self, job: Job) -> Retrieved | None:
        """None: they are gone, or not all of them are what is served now and what the caller may read."""
        data = await self.store.passages(job.id)
        if data is None:
            return None
        try:
            found = load_retrieved(data)
        except ValueError:
            return None  # of another version: they are retrieved again
        return found if await self._search.still_serves(job.request, found) else None

    async def _done(self, job: Job, answer: Answer, teller: Teller) -> None:
        shown = answer_out(answer)
        last = (*await teller.take(), NewEvent("done", _json(shown)))
        ending = Ending(
            JobState.DONE, last, answer=dump_answer(answer), webhook=self._body(job, "job.done", {"answer": shown})
        )
        if not await self.store.finish(job.id, job.attempt, ending):
            raise Lost
        metrics.jobs_total.labels("done").inc()
        metrics.job_latency_ms.labels("total").observe(max(0.0, self._clock.now() - job.created_at) * 1000)

    def _body(self, job: Job, type: str, data: dict[str, Any]) -> bytes | None:
        """Of a webhook, as the Standard Webhooks specification has it."""
        if job.webhook is None:
            return None
        at = datetime.fromtimestamp(self._clock.now(), UTC).isoformat().replace("+00:00", "Z")
        return _json({"type": type, "timestamp": at, "data": {"job_id": job.id, **data}}).encode()


class Teller:
    """Events of one attempt on their way to the store: what comes within FLUSH_S goes in one commit, as one `token`."""

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store = store
        self._job = job
        self._waiting: list[NewEvent] = []
        self._text = ""
        self._came = asyncio.Event()
        self._appending = asyncio.Lock()

    def tell_text(self, text: str) -> None:
        self._text += text
        self._came.set()

    def tell(self, event: NewEvent) -> None:
        self._close_text()
        self._waiting.append(event)
        self._came.set()

    async def take(self) -> list[NewEvent]:
        """What is not told yet, for whoever tells it with the end; from here on nothing is told by itself."""
        await self._appending.acquire()
        return self._taken()

    async def run(self) -> None:
        """Until cancelled. Raises Lost; EngineError: it may have been told, so that it must not be told again."""
        while True:
            await self._came.wait()
            async with self._appending:
                self._came.clear()
                told = self._taken()
                if told and not await self._store.append(self._job.id, self._job.attempt, told):
                    raise Lost
            await asyncio.sleep(FLUSH_S)

    def _taken(self) -> list[NewEvent]:
        self._close_text()
        taken, self._waiting = self._waiting, []
        return taken

    def _close_text(self) -> None:
        if self._text:
            self._waiting.append(NewEvent("token", _json({"text": self._text})))
            self._text = ""


@asynccontextmanager
async def telling(store: JobStore, job: Job) -> AsyncIterator[Teller]:
    """The block's events are told while it runs; that they are refused, or cannot be told, ends the block with Lost or the
    store's error."""
    teller, block = Teller(store, job), asyncio.current_task()
    assert block
    failures: list[BaseException] = []

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)
            block.cancel()

    running = asyncio.create_task(teller.run())
    running.add_done_callback(ended)
    try:
        yield teller
    except asyncio.CancelledError:
        if not failures:
            raise
        block.uncancel()
        raise failures[0] from None
    finally:
        running.remove_done_callback(ended)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


AGAIN = "Ask again, or begin it anew with POST /v1/jobs/ID/retry."


def may_read(caller: Caller, job: Job) -> bool:
    """Its owner is the principal, so that a key that is rotated keeps its jobs. A key that may read less than the one that asked
    does not read what that one was answered: other groups, another namespace."""
    return (
        job.principal == caller.principal
        and job.request.groups <= caller.groups
        and (caller.namespaces is None or job.request.namespace in caller.namespaces)
    )


def _passages(found: Retrieved) -> NewEvent:
    """Where they are from, without their texts: an event stays readable for a day, and a document's readers may change."""
    places = [{k: v for k, v in passage_out(passage).items() if k != "text"} for passage in found.passages]
    return NewEvent(
        "passages", _json({"passages": places, "degraded": list(found.degraded), "sequence": found.sequence})
    )


def _fingerprint(question: Question) -> str:
    asked = asdict(question.request) | {"groups": sorted(question.request.groups)}
    body = [asked, question.webhook, question.deadline_s]
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
