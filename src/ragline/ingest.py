"""The ingest path: what happens to a document from its arrival until it is found.

    accept ─▶ parse ─▶ embed ─▶ index ─▶ sweep

`accept` is the client's call; the rest is done by workers (`process`), each step from what the one before left in the
blob store, so that a crash at any line loses nothing and repeats at most one step. At least once, idempotent effect.

With a chunk log, `process` ends with the chunks on it, and the workers of `log_workers` call the other two stages: `embed_texts`
and, through `finish`, `index`.

Two guards make "late never wins": `index` looks at the row before and after it writes, and at query time a hit whose
content is not its document's `live` is dropped (see `query`).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import structlog

from ragline import metrics, tracing
from ragline.background import Background
from ragline.chunking import chunk, chunk_id, search_text
from ragline.clock import Clock
from ragline.contents import Content, Contents, off_loop
from ragline.errors import (
    DocumentRejected,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    NotFound,
    Reason,
    TooLarge,
)
from ragline.filters import coerce_metadata
from ragline.languages import of_document
from ragline.members import Members
from ragline.protocols import ChunkLog, Embedder, Parser, Vectors
from ragline.registry.acceptance import Accepted, Incoming, document_id, fingerprint
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.settings import IngestSettings
from ragline.snapshots import Snapshots
from ragline.stores import Stores
from ragline.types import (
    ChunkMessage,
    Document,
    Epoch,
    Metadata,
    Namespace,
    NamespaceSettings,
    Parsed,
    Record,
    Space,
    Span,
    State,
    Upload,
)
from ragline.uris import clean

log = structlog.get_logger()

EMBED_SLICE = 128
"""Chunks of one document handed to the embedder at a time, so that a long document does not hold up short ones."""

Stage = Literal["parsing", "embedding", "indexing", "sweeping"]


@dataclass(slots=True)
class InWork:
    """How far this process is with a document it has claimed. Kept in memory: another process does not see it.

    stage: ``parsing``, ``embedding``, ``indexing`` or ``sweeping``.   done, total: chunks, while they are embedded.
    Units: `begun_at` seconds since 1970; `moved_at`, the last step, on the monotonic clock.
    """

    attempt: int
    stage: Stage
    begun_at: float
    moved_at: float
    done: int | None = None
    total: int | None = None


class _Superseded(Exception):
    """A newer change to the document has won."""


class Ingest:
    def __init__(
        self, *, snapshots: Snapshots, documents: Documents, claims: Claims, contents: Contents, members: Members,
        parser: Parser, embedder: Embedder, stores: Stores, background: Background, settings: IngestSettings, clock: Clock,
        languages: frozenset[str] | None = None, log: ChunkLog | None = None,
    ) -> None:  # fmt: skip
        """`languages`: that the embedder knows; None: all. `log`: that drives documents from their chunks on."""
        self.in_work: dict[str, InWork] = {}
        """Document → how far it is, of those that this process is at."""
        self._clock = clock
        self._snapshots = snapshots
        self._documents = documents
        self._claims = claims
        self._contents = contents
        self._members = members
        self._parser = parser
        self._embedder = embedder
        self._stores = stores
        self._background = background
        self._settings = settings
        self._languages = languages
        self._log = log

    # ── accept ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @tracing.spanned("accept")
    async def accept(self, namespace: Namespace, upload: Upload) -> Accepted:
        """Keep the bytes, then take a sequence number for them: from then on nothing of it can be lost.

        Raises:  TooLarge, InvalidRequest: the document's size, its metadata.  NotFound: the namespace is gone.
        """
        if len(upload.data) > self._settings.max_document_bytes:
            raise TooLarge(
                f"{upload.uri}: {len(upload.data)} bytes are over the limit of {self._settings.max_document_bytes}.",
                next_step="Split the document, or raise ingest.max_document_bytes.",
                field="file",
            )
        _check_metadata(upload, self._settings.max_metadata_bytes)
        coerce_metadata(upload.metadata, namespace.settings.fields)
        uri = clean(upload.uri)
        sha256 = await off_loop(_sha256, upload.data)
        blob = secrets.token_hex(8)
        incoming = Incoming(
            uri=uri, title=upload.title, media_type=upload.media_type, size=len(upload.data), sha256=sha256, blob=blob,
            fingerprint=fingerprint(sha256, upload.media_type, namespace.settings), groups=upload.groups,
            metadata=upload.metadata, source=upload.source, version=upload.version,
        )  # fmt: skip
        document = document_id(namespace, uri)
        await self._contents.put_original(namespace, document, blob, upload.data)
        try:
            accepted = await self._documents.accept(namespace, incoming)
        except (EngineUnavailable, EngineTimeout):
            raise  # it may be committed all the same: the bytes stay
        except Exception:
            await self._contents.sweep(namespace, document, [blob])
            raise
        mine = accepted.document
        tracing.note({
            "ragline.namespace": namespace.name, "ragline.document": mine.id,
            "ragline.document_trace": tracing.trace_id_of(trace_name(mine)),
        })  # fmt: skip
        if accepted.document.blob != blob:  # the row keeps the bytes that it has, which are the same
            await self._contents.heal_original(namespace, accepted.document, upload.data)
            await self._contents.sweep(namespace, document, [blob])
        return accepted

    # ── one claimed document, whole ──────────────────────────────────────────────────────────────────────────────────

    async def process(self, document: Document) -> None:
        """Do what is due for `document`. Raises RaglineError: DocumentRejected is final, the rest may be tried again."""
        self.in_work[document.id] = mine = InWork(
            document.attempt, "parsing", begun_at=self._clock.now(), moved_at=self._clock.monotonic()
        )
        try:
            await self._process(document)
        finally:
            if self.in_work.get(document.id) is mine:  # else another attempt has begun
                del self.in_work[document.id]

    async def _process(self, document: Document) -> None:
        namespace = await self._snapshots.get(document.namespace)
        if document.state is State.DELETED or document.settled >= document.revision:
            await self.sweep(namespace, document)
        elif document.live == document.content:
            await self.index_words(namespace, document)
        else:
            try:
                with self._stores.on_its_way():
                    content = await self.parse(namespace, document)
                    if self._log is not None and content.spans:
                        await self._hand_over(self._log, document, content)
                        return
                    vectors = await self.embed(namespace, document, content)
                await self.index(document, content, vectors)
            except _Superseded:
                await self._take_back(namespace, document)

    def _step(self, document: Document, stage: Stage, *, done: int | None = None, total: int | None = None) -> None:
        """A step was made: the deadline of the stage begins anew."""
        mine = self.in_work.get(document.id)
        if mine is not None and mine.attempt == document.attempt:
            mine.stage, mine.done, mine.total, mine.moved_at = stage, done, total, self._clock.monotonic()

    @tracing.spanned("parse")
    async def parse(self, namespace: Namespace, document: Document) -> Content:
        """Bytes to chunks, left as a blob; read back from there when an earlier attempt came this far.

        What lies inside is accepted before that is written down, so that no crash can lose it.
        """
        assert document.blob
        self._step(document, "parsing")
        if document.state is State.CHUNKED:
            content = await self._contents.get(namespace, document, document.blob, document.content)
            if content is not None:
                return content
        start = time.perf_counter()
        read = partial(self._contents.original, namespace, document.id, document.blob)
        parsed = await self._parser.parse(read, name=document.uri, media_type=document.media_type)
        spans, language = await self._background.run(partial(self._cut, parsed, namespace.settings))
        if not spans and not parsed.members:
            raise DocumentRejected(Reason.NO_TEXT, f"{document.uri} holds no text.", next_step="Check the file.")
        if not await self._members.take(namespace, document, parsed):
            raise _Superseded
        content = Content(parsed.text, parsed.title, tuple(spans))
        await self._contents.put(namespace, document, content)
        took_s = time.perf_counter() - start
        metrics.ingest_latency_ms.labels("parse").observe(took_s * 1000)
        warning = _warning(language, self._languages)
        if not await self._claims.mark_chunked(
            document, chunks=len(spans), title=_title(document, content), took_s=took_s, language=language,
            warning=warning,
        ):  # fmt: skip
            raise _Superseded
        if warning and not namespace.foreign:
            self._snapshots.forget(document.namespace)  # the namespace has its first such document: queries must know
        return content

    def _cut(self, parsed: Parsed, sizes: NamespaceSettings) -> tuple[list[Span], str | None]:
        """Chunks and, where it matters, the language: in one trip to a thread, because each there and back waits for a core."""
        spans = chunk(
            parsed, self._embedder.token_spans, chunk_tokens=sizes.chunk_tokens, overlap_tokens=sizes.overlap_tokens
        )
        return spans, of_document(parsed.text) if self._languages is not None else None

    async def _hand_over(self, log: ChunkLog, document: Document, content: Content) -> None:
        """Chunks to the log. What is served already and only parsed again goes by the bulk lane: nobody waits for it."""
        start = time.perf_counter()
        self._step(document, "embedding")
        title, count = _title(document, content), len(content.spans)
        messages = [
            ChunkMessage(
                document.namespace, document.id, chunk_id(document.namespace, document.id, document.content, ordinal),
                document.content, ordinal, count,
                search_text(title, span.headings, content.text[span.start : span.end]), traceparent=tracing.traceparent(),
            )
            for ordinal, span in enumerate(content.spans)
        ]  # fmt: skip
        await log.append("doc_chunks", messages, bulk=document.blob == document.live_blob)
        took_s, deadline_s = time.perf_counter() - start, self._settings.chunked_deadline_s
        if not await self._claims.hand_over(document, deadline_s=deadline_s, took_s=took_s):
            raise _Superseded

    async def wanted(self, contents: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
        """Those of (document, content) that are still to be embedded and indexed: chunked, the newest, and not live."""
        rows = await self._documents.look_all({id for id, _ in contents})
        return {(id, number) for id, number in contents if id in rows and _awaits(rows[id], number)}

    async def sweep_behind(self, contents: Collection[tuple[str, int]]) -> None:
        """Of (document, content) that came too late over the log: what was written of them goes, by a worker that was killed, or
        by a try that gave up. What either had sent may still land: it is swept at once, and after a lease once more."""
        rows = await self._documents.look_all({id for id, _ in contents})
        for id in sorted({id for id, number in contents if id in rows and rows[id].content > number}):
            await self._claims.sweep_again(id, until_s=self._settings.lease_s)

    @tracing.spanned("embed")
    async def embed(self, namespace: Namespace, document: Document, content: Content) -> Vectors:
        """Chunks to vectors of the embedder's space, left as a blob; read back from there when they are."""
        assert document.blob
        space, count = self._embedder.space, len(content.spans)
        if document.attempt > 1:
            found = await self._contents.vectors(namespace, document, document.blob, document.content, space, count)
            if found is not None:
                return found
        start = time.perf_counter()
        title = _title(document, content)
        texts = [search_text(title, span.headings, content.text[span.start : span.end]) for span in content.spans]
        vectors = await self.embed_texts(
            texts, step=lambda done: self._step(document, "embedding", done=done, total=len(texts))
        )
        await self._contents.put_vectors(namespace, document, space, vectors)
        metrics.ingest_latency_ms.labels("embed").observe((time.perf_counter() - start) * 1000)
        return vectors

    async def embed_texts(self, texts: Sequence[str], *, step: Callable[[int], None] = lambda _: None) -> Vectors:
        """Shapes: (len(texts), dim). In slices, between which other documents get their turn; `step` is told how many are
        done, before each."""
        parts: list[Vectors] = [np.zeros((0, self._embedder.space.dim), np.float32)]
        for start in range(0, len(texts), EMBED_SLICE):
            step(start)
            parts.append(await self._embedder.embed(texts[start : start + EMBED_SLICE], purpose="document"))
        return np.concatenate(parts)

    @tracing.spanned("index")
    async def index(self, document: Document, content: Content, vectors: Vectors) -> None:
        """Look, write to every epoch's stores, look again: serve it. Raises _Superseded: it came too late."""
        start = time.perf_counter()
        while True:
            self._step(document, "indexing")
            namespace = await self._snapshots.get(document.namespace)
            now = await self._documents.look(document.id)
            if now is None or now.content != document.content:
                raise _Superseded
            epochs = [epoch for epoch in (namespace.epoch, namespace.building) if epoch]
            labels = frozenset(epoch.label for epoch in epochs)
            title = _title(now, content)
            try:
                for epoch in epochs:
                    rows = records(now, content, document.content, title, epoch)
                    await self._stores.write(epoch, rows, vectors, self._embedder.space)
            except EngineRejected:
                if await self._epochs_of(document.namespace) == labels:
                    raise
                continue  # its collection was dropped meanwhile: other epochs serve now
            took_s = time.perf_counter() - start
            if await self._claims.mark_live(
                replace(now, attempt=document.attempt), title=title, epochs=labels, event="indexed",
                detail=f"{len(content.spans)} chunks live{self._unless_dense(namespace.epoch)}", took_s=took_s,
            ):  # fmt: skip
                metrics.ingest_latency_ms.labels("index").observe(took_s * 1000)
                metrics.documents_total.labels("indexed").inc()
                metrics.chunks_total.inc(len(content.spans))
                return
            self._snapshots.forget(document.namespace)  # refused: the epochs may be others by now
            if not await self._claims.renew(document, lease_s=self._settings.lease_s):
                raise _Superseded

    async def finish(self, id: str, number: int, vectors: Vectors) -> bool:
        """The index stage of a content whose vectors came over the log, all of them. False: too late, nothing was done.

        Shapes:  vectors (chunks, dim) of `space`, by ordinal.
        """
        while True:
            now = await self._documents.look(id)
            if now is None or not _awaits(now, number):
                return False
            try:
                namespace = await self._snapshots.get(now.namespace)
            except NotFound:
                return False
            assert now.blob
            content = await self._contents.get(namespace, now, now.blob, number)
            if content is None:
                await self._claims.drive_again(id, why="its chunks are gone from the blob store: to be parsed again")
                return False
            if len(content.spans) != len(vectors):  # parsed anew meanwhile, into others
                return False
            await self._contents.put_vectors(namespace, now, self.space, vectors)
            try:
                await self.index(now, content, vectors)
            except _Superseded:
                await self._take_back(namespace, now)
                continue  # another attempt at the same content may have begun: these vectors are as good as its own
            return True

    @property
    def space(self) -> Space:
        """Of the vectors that `embed_texts` makes and `finish` takes."""
        return self._embedder.space

    @property
    def longest_lease_s(self) -> float:
        """How far ahead a lease may reach."""
        return max(self._settings.lease_s, self._settings.chunked_deadline_s if self._log is not None else 0.0)

    def _unless_dense(self, epoch: Epoch) -> str:
        if epoch.space == self._embedder.space:
            return ""
        return f", for the keyword leg: the vectors served are of {epoch.space.id}; run `ragline reindex`"

    async def _epochs_of(self, name: str) -> frozenset[str]:
        self._snapshots.forget(name)
        namespace = await self._snapshots.get(name)
        return frozenset(epoch.label for epoch in (namespace.epoch, namespace.building) if epoch)

    async def index_words(self, namespace: Namespace, document: Document) -> None:
        """Only title, metadata or groups changed: the same content, its payload replaced, nothing embedded."""
        assert document.live_blob
        self._step(document, "indexing")
        start = time.perf_counter()
        content = await self._contents.get(namespace, document, document.live_blob, document.content)
        title = _title(document, content) if content else document.given_title or document.title
        while True:
            epochs = [epoch for epoch in (namespace.epoch, namespace.building) if epoch]
            labels = frozenset(epoch.label for epoch in epochs)
            try:
                for epoch in epochs:
                    fields, groups = _fields(document, epoch), document.groups
                    await self._stores.update_payload(epoch, document.id, title=title, groups=groups, fields=fields)
                break
            except EngineRejected:
                if await self._epochs_of(document.namespace) == labels:
                    raise
                namespace = await self._snapshots.get(document.namespace)  # its collection was dropped meanwhile
        took_s = time.perf_counter() - start
        if not await self._claims.mark_live(
            document, title=title, epochs=labels, event="updated words", detail="payload replaced", took_s=took_s
        ):
            # A newer change won while these words were being written, maybe over its own: they are written once more.
            self._snapshots.forget(document.namespace)
            await self._claims.rewrite_words(document.id)
            await self._claims.release(document, after_s=0.0)

    async def sweep(self, namespace: Namespace, document: Document) -> None:
        """Remove rows and blobs of contents that are not served any more; for a tombstone that is all there is to do."""
        self._step(document, "sweeping")
        await self._delete_rows(document)
        await self._contents.sweep(namespace, document.id, document.garbage)
        await self._contents.keep_only(namespace, document)
        await self._claims.mark_swept(document)

    async def _take_back(self, namespace: Namespace, document: Document) -> None:
        """A newer change won: rows and blobs of this one go. A newer content that is not live yet sweeps the rows itself."""
        now = await self._documents.look(document.id)
        if now is None:  # its tombstone is purged, or its namespace gone: nobody else would remove these rows
            await self._delete_rows(document, below=document.content + 1)
        elif now.live is not None or now.state is State.DELETED:
            await self._delete_rows(now)
        if document.blob and (now is None or document.blob not in (now.blob, now.live_blob)):
            await self._contents.sweep(namespace, document.id, [document.blob])
        elif now is not None and document.content not in (now.content, now.live):
            await self._contents.discard(namespace, document)
        log.info("superseded", document=document.id, content=document.content)

    async def _delete_rows(self, document: Document, *, below: int | None = None) -> None:
        namespace = await self._snapshots.get(document.namespace)
        bound = below or (document.content if document.live is None else document.live)
        for epoch in filter(None, (namespace.epoch, namespace.building)):
            await self._stores.delete(epoch, {document.id: bound})


def records(document: Document, content: Content, number: int, title: str, epoch: Epoch) -> list[Record]:
    """The rows of one content, as both stores of `epoch` hold them."""
    fields = _fields(document, epoch)
    return [
        Record(one, document.uri, title, document.groups, fields, search_text(title, one.headings, one.text))
        for one in content.chunks(document, number)
    ]


def _awaits(document: Document, number: int) -> bool:
    return (
        document.content == number and document.live != number and document.state is State.CHUNKED
        and document.settled < document.revision
    )  # fmt: skip


def _fields(document: Document, epoch: Epoch) -> Metadata:
    """The declared metadata. What was accepted under older declarations and has another type now is left out, and told."""
    try:
        return coerce_metadata(document.metadata, epoch.fields)
    except InvalidRequest as error:
        log.warning("metadata left out", document=document.id, epoch=epoch.label, field=error.field)
        left = {name: kind for name, kind in epoch.fields.items() if f"metadata.{name}" != error.field}
        assert len(left) < len(epoch.fields)
        return _fields(document, replace(epoch, fields=left))


def _title(document: Document, content: Content) -> str:
    return document.given_title or content.title or document.uri.rstrip("/").rsplit("/", 1)[-1]


def trace_name(document: Document) -> str:
    """A revision of a document is one trace, whoever works on it and however often."""
    return f"document {document.id} {document.revision}"


def _warning(language: str | None, known: frozenset[str] | None) -> str:
    """Empty: there is nothing to warn of."""
    if known is None or language is None or language in known:
        return ""
    return (
        f"The text is in {language!r}, the embedder knows {', '.join(sorted(known))}: it is found by its words, hardly by "
        "its meaning. Set an embedder for it (embedder.url), then `ragline reindex`."
    )


def _check_metadata(upload: Upload, limit_bytes: int) -> None:
    size = len(json.dumps(dict(upload.metadata), ensure_ascii=False).encode("utf-8", "surrogatepass"))
    if size > limit_bytes:
        raise TooLarge(
            f"{upload.uri}: metadata of {size} bytes is over the limit of {limit_bytes}.",
            next_step="Put long values into the document, or raise ingest.max_metadata_bytes.",
            field="metadata",
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
