"""The client: each method is one call of the HTTP API, or a few that belong together."""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar
from uuid import uuid4

from ragline.client import results
from ragline.client.errors import ClientError, DocumentFailed, Gone, JobFailed, NotReachable, TimedOut, refused
from ragline.client.results import (
    LAST,
    AcceptedJob,
    Answer,
    AnswerEvent,
    Deleted,
    Document,
    Found,
    Job,
    JobEvent,
    Namespace,
    Uploaded,
)
from ragline.client.transport import Call, File, Transport, understood

T = TypeVar("T")

LOOK_S = (0.1, 2.0)
"""First and longest wait between two looks at a document that is on its way."""

PAGE = 200
"""Entries of a list asked for at a time: the most that the server gives of jobs."""

Leg = Literal["keyword", "dense"]


class AsyncClient:
    """For asyncio. Every method raises ClientError; see `ragline.client.errors`.

    It may be used by any number of tasks of one event loop. Close it, or use it as a context manager.
    """

    def __init__(
        self, *urls: str, key: str | None = None, timeout_s: float = 60.0, tries: int = 4, tls: ssl.SSLContext | None = None
    ) -> None:  # fmt: skip
        """`urls`: of one server, or of replicas of it: where one fails, the next is asked.

        timeout_s: for a whole call, its retries and their waits included; of a stream, for its beginning and, where a stream of
                   a job broke off, for it to go on.
        tries:     of a call that is not answered or is refused for the moment, where another one can do no harm.
        tls:       None: as httpx trusts by itself.
        Raises:    ValueError.
        """
        self._transport = Transport(urls, key=key, tries=tries, tls=tls)
        self._timeout_s = timeout_s

    def with_timeout(self, timeout_s: float) -> AsyncClient:
        """The same client, on the same connections, with another time for each call. Closing one closes both."""
        other = copy.copy(self)
        other._timeout_s = timeout_s
        return other

    async def aclose(self) -> None:
        """End what is under way; calls after it raise Closed."""
        await self._transport.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ── searches and answers ────────────────────────────────────────────────────────────────────────────────────────

    async def search(
        self, query: str, *, namespace: str = "default", top_k: int = 10, filters: Mapping[str, Any] | None = None,
        legs: Sequence[Leg] = ("keyword", "dense"), distinct: Literal["chunk", "document"] = "chunk",
        min_sequence: int | None = None,
    ) -> Found:  # fmt: skip
        """Passages for a query. `filters`: {field: value | [values] | {gte, lte}}, all must hold.

        `min_sequence`: wait until every change up to it is visible, such as the `sequence` of an upload.
        """
        body = {
            "query": query, "namespace": namespace, "top_k": top_k, "filters": filters, "legs": list(legs),
            "distinct": distinct, "min_sequence": min_sequence,
        }  # fmt: skip
        return await self._send(Call("POST", ("v1", "search"), repeatable=True, body=body), results.found)

    async def answer(
        self, query: str, *, namespace: str = "default", top_k: int = 8, filters: Mapping[str, Any] | None = None,
        min_sequence: int | None = None,
    ) -> Answer:  # fmt: skip
        """An answer from the documents, with citations. One that takes longer than connections last: `ask`."""
        return await self._send(_question(query, namespace, top_k, filters, min_sequence), results.answer)

    async def stream_answer(
        self, query: str, *, namespace: str = "default", top_k: int = 8, filters: Mapping[str, Any] | None = None,
        min_sequence: int | None = None,
    ) -> AsyncGenerator[AnswerEvent, None]:  # fmt: skip
        """The same while it comes about: `Found`, `Token` to append …, `Restarted`, last the whole `Answer`.

        It cannot be resumed: cut, it raises NotReachable. `timeout_s` also bounds the silence between two events.
        """
        call = _question(query, namespace, top_k, filters, min_sequence, stream=True)
        async with await self._transport.open(
            call, deadline=self._deadline(), tries=self._transport.tries, silence_s=self._timeout_s
        ) as stream:
            async for frame in stream:
                with understood():
                    data = json.loads(frame.data or "{}")
                    event = results.answer_event(frame.name, data)
                if frame.name == "error":
                    raise refused(data, data.get("status", 500), request_id="", retry_after_s=None)
                if event is not None:
                    yield event
                if isinstance(event, Answer):
                    return
        raise NotReachable("The answer broke off.", next_step="Ask again.", sent=True)

    # ── jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def ask(
        self, query: str, *, namespace: str = "default", top_k: int = 8, filters: Mapping[str, Any] | None = None,
        min_sequence: int | None = None, deadline_s: float | None = None, webhook: str | None = None,
        idempotency_key: str | None = None,
    ) -> AcceptedJob:  # fmt: skip
        """Have a question answered later. Once this returns, the job is durable; follow it, or wait for it.

        deadline_s:      from now to the answer; then the job fails.   webhook: URL that is told of the end.
        idempotency_key: the same key and question within 24 h are the same job. None: the client makes one, so that its own
                         retries are one job.
        """
        body = {
            "query": query, "namespace": namespace, "top_k": top_k, "filters": filters, "min_sequence": min_sequence,
            "deadline_s": deadline_s, "webhook": webhook,
        }  # fmt: skip
        headers = {"Idempotency-Key": uuid4().hex if idempotency_key is None else idempotency_key}
        call = Call("POST", ("v1", "queries"), repeatable=True, body=body, headers=headers)
        return await self._send(call, results.accepted_job)

    async def follow(self, job: str, *, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """The events of a job, each once, in order, from behind event `after` until it has ended.

        Where the connection is cut, the next one goes on behind the last event, on whichever replica answers. Leave it by
        closing it (`contextlib.aclosing`); the job goes on.
        Raises:  Gone: it ended long ago, and its events are kept no longer; NotReachable, TimedOut: there was no sign of life
                 for `timeout_s`: follow it again from behind the last event that you have.
        """
        last, name, cuts, deadline = after, "", 0, self._deadline()
        while True:
            headers = {"Last-Event-ID": str(last)} if last else {}
            call = Call("GET", ("v1", "jobs", job, "events"), repeatable=True, headers=headers)
            heard, lost = 0, False
            try:
                async with await self._transport.open(call, deadline=deadline) as stream:
                    if stream.over:
                        return
                    async for frame in stream:
                        heard += 1
                        if heard > 1 or frame.name:  # a comment comes at once, and is no sign that the line stands
                            cuts = 0
                        if not frame.name:
                            continue
                        with understood():
                            event = results.job_event(frame.id, frame.name, frame.data)
                        if lost := event.id > last + 1:
                            break  # to be asked for again
                        if event.id == last + 1:
                            last, name = event.id, event.name
                            yield event
                if name in LAST and not lost:
                    return
                cut = NotReachable(f"The events of job {job} broke off.", next_step="Follow it again.", sent=True)
            except NotReachable as error:
                if name == "done":  # nothing can come behind it; behind `failed` there may be the next try
                    return
                cut = error
            if cuts == 0:
                deadline = self._deadline()
            cuts += 1
            wait_s = self._transport.pause_s(cuts)
            if asyncio.get_running_loop().time() + wait_s >= deadline:
                raise cut
            self._transport.next_replica()
            await asyncio.sleep(wait_s)

    async def wait_job(self, job: str, *, timeout_s: float | None = None) -> Answer:
        """The answer, once it is there. `timeout_s` None: as long as the job takes, which has a deadline of its own.

        Raises:  JobFailed; TimedOut: the job goes on.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (ended := await self.job(job)).state not in LAST:
                    try:
                        async with aclosing(self.follow(job)) as events:
                            async for _ in events:
                                pass
                    except Gone:
                        if (ended := await self.job(job)).state not in LAST:
                            raise
                        break
        except TimeoutError as error:
            if isinstance(error, ClientError):
                raise
            raise TimedOut(f"Job {job} has not ended in time.", next_step="Wait longer, or follow it.") from error
        if ended.answer is None:
            raise JobFailed(ended)
        return ended.answer

    async def job(self, job: str) -> Job:
        """Where it stands; once it has ended, its answer or its error."""
        return await self._send(Call("GET", ("v1", "jobs", job), repeatable=True), results.job)

    async def jobs(self, *, state: str | None = None) -> AsyncGenerator[Job, None]:
        """Yours, newest first, without their answers."""
        before: str | None = None
        while True:
            params = {"state": state, "before": before, "limit": PAGE}
            call = Call("GET", ("v1", "jobs"), repeatable=True, params=params)
            page, before = await self._send(call, partial(_page, results.jobs))
            for one in page:
                yield one
            if before is None:
                return

    async def cancel_job(self, job: str) -> Job:
        """It ends `failed`, with the reason ``cancelled``; one that has ended stays as it is."""
        return await self._send(Call("DELETE", ("v1", "jobs", job), repeatable=True), results.job)

    async def retry_job(self, job: str, *, deadline_s: float | None = None) -> AcceptedJob:
        """Begin a failed one again; it keeps its id, and its events go on. Raises Conflict: it has not failed."""
        call = Call("POST", ("v1", "jobs", job, "retry"), repeatable=False, body={"deadline_s": deadline_s})
        return await self._send(call, results.accepted_job)

    # ── documents ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def upload(
        self, uri: str, content: bytes | Path, *, namespace: str = "default", title: str | None = None,
        media_type: str = "application/octet-stream", metadata: Mapping[str, Any] | None = None, groups: Sequence[str] = (),
    ) -> Uploaded:  # fmt: skip
        """Bytes, or a file, which is read while it is sent. Once this returns the bytes are safe; see `wait_live`.

        uri:        by which the document is known; the same again is a new revision, and the same bytes change nothing.
        media_type: where neither the bytes nor the end of the uri tell what it is.
        groups:     who may read it; none: everyone in the namespace.
        Raises:     OSError: the file cannot be read.
        """
        form = {"uri": uri, "metadata": json.dumps(metadata or {}), "groups": json.dumps(list(groups))}
        if title is not None:
            form["title"] = title
        file = File(content, media_type, form)
        call = Call("POST", ("v1", "namespaces", namespace, "documents"), repeatable=True, file=file)
        return await self._send(call, partial(results.uploaded, namespace=namespace))

    async def wait_live(self, uploaded: Uploaded, *, timeout_s: float = 300.0) -> Document:
        """The document, once it is found by searches. What lies in it, in an archive or a mail, may take longer: `min_sequence`.

        Raises:  DocumentFailed: it cannot be processed; NotFound: it was deleted; TimedOut: it goes on.
        """
        loop = asyncio.get_running_loop()
        deadline, wait_s = loop.time() + timeout_s, LOOK_S[0]
        while True:
            document = await self.document(uploaded.id, namespace=uploaded.namespace)
            if document.state == "failed":
                raise DocumentFailed(document)
            if document.settled >= uploaded.revision:
                return document
            if loop.time() + wait_s >= deadline:
                raise TimedOut(
                    f"Document {document.uri!r} is not live in time: it is {document.state}.",
                    next_step=f"Wait longer; `ragline documents why {document.id}` tells what it waits for.",
                )
            await asyncio.sleep(wait_s)
            wait_s = min(LOOK_S[1], wait_s * 1.5)

    async def document(self, id: str, *, namespace: str = "default") -> Document:
        call = Call("GET", ("v1", "namespaces", namespace, "documents", id), repeatable=True)
        return await self._send(call, results.document)

    async def documents(
        self, *, namespace: str = "default", state: str | None = None, uri: str | None = None
    ) -> AsyncGenerator[Document, None]:  # fmt: skip
        """All of them, or those with this state, or this uri; by id, a page at a time."""
        cursor: str | None = None
        while True:
            params = {"state": state, "uri": uri, "cursor": cursor, "limit": PAGE}
            call = Call("GET", ("v1", "namespaces", namespace, "documents"), repeatable=True, params=params)
            page, cursor = await self._send(call, partial(_page, results.documents))
            for one in page:
                yield one
            if cursor is None:
                return

    async def delete_document(self, id: str, *, namespace: str = "default") -> Deleted:
        """Not served from this moment on. Raises NotFound, also where it is deleted already."""
        call = Call("DELETE", ("v1", "namespaces", namespace, "documents", id), repeatable=False)
        return await self._send(call, results.deleted)

    # ── namespaces ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def namespaces(self) -> tuple[Namespace, ...]:
        """Those that the key may see."""
        return await self._send(Call("GET", ("v1", "namespaces"), repeatable=True), results.namespaces)

    async def namespace(self, name: str) -> Namespace:
        return await self._send(Call("GET", ("v1", "namespaces", name), repeatable=True), results.namespace)

    async def put_namespace(
        self, name: str, *, fields: Mapping[str, str] | None = None, candidates: int | None = None,
        chunk_tokens: int | None = None, overlap_tokens: int | None = None, public: bool | None = None,
    ) -> Namespace:  # fmt: skip
        """Create it; when it exists, change what is given. `fields`: metadata that filters may use, by type (``keyword``,
        ``integer``, ``number``, ``boolean``, ``date``)."""
        body = {
            "fields": fields, "candidates": candidates, "chunk_tokens": chunk_tokens, "overlap_tokens": overlap_tokens,
            "public": public,
        }  # fmt: skip
        return await self._send(Call("PUT", ("v1", "namespaces", name), repeatable=True, body=body), results.namespace)

    async def delete_namespace(self, name: str) -> None:
        """Forget it with all its documents, at once."""
        return await self._send(Call("DELETE", ("v1", "namespaces", name), repeatable=False), results.nothing)

    # ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send(self, call: Call, read: Callable[[Any], T]) -> T:
        return await self._transport.send(call, read, deadline=self._deadline())

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_s


def _question(
    query: str, namespace: str, top_k: int, filters: Mapping[str, Any] | None, min_sequence: int | None, *,
    stream: bool = False,
) -> Call:  # fmt: skip
    body = {
        "query": query, "namespace": namespace, "top_k": top_k, "filters": filters, "min_sequence": min_sequence,
        "stream": stream,
    }  # fmt: skip
    return Call("POST", ("v1", "answers"), repeatable=True, body=body)


def _page(read: Callable[[Any], tuple[T, ...]], data: Mapping[str, Any]) -> tuple[tuple[T, ...], str | None]:
    """Entries, and where the next page begins."""
    return read(data), data["next"]
