"""The nouns. Frozen, without I/O; read this and `protocols.py` and you know the system.

Namespace ── Epoch (what a query reads, once) ── Space (one embedding model and its precision)
    └── Document ── content ── Chunk ── Record (a chunk as the stores hold it)
SearchRequest → Hit (what a leg returned) → Passage (after fusion, guard and packing) → Answer
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

Groups: TypeAlias = frozenset[str]
"""Names of reader groups. On a document: who may read it, empty = everyone in the namespace. On a caller: what it is in."""

Scalar: TypeAlias = str | int | float | bool
Metadata: TypeAlias = Mapping[str, Scalar | Sequence[Scalar]]
LegName: TypeAlias = Literal["keyword", "dense"]
Role: TypeAlias = Literal["read", "write", "admin"]
Distinct: TypeAlias = Literal["chunk", "document"]


class FieldType(StrEnum):
    """Type of a filterable metadata field, declared per namespace. A date is held as integer milliseconds since 1970, UTC."""

    KEYWORD = "keyword"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"


class State(StrEnum):
    """Where a document's newest revision stands. `live` content may serve in every one of them but DELETED."""

    RECEIVED = "received"
    CHUNKED = "chunked"
    INDEXED = "indexed"
    FAILED = "failed"
    DELETED = "deleted"


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field holds at least one of `values` (already of the field's declared type)."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Between:
    """The field lies in [gte, lte]; a missing bound is open."""

    field: str
    gte: float | int | None
    lte: float | int | None


Condition: TypeAlias = AnyOf | Between


@dataclass(frozen=True, slots=True)
class Scope:
    """What a search may see: every condition must hold, and the chunk's groups be empty or share one with `groups`."""

    groups: Groups = frozenset()
    conditions: tuple[Condition, ...] = ()


# ── corpora ──────────────────────────────────────────────────────────────────────────────────────────────────────────


SAME_MODEL = 0.98
"""Least cosine of two probes of one model: half-precision and other batches cost 0.001, another model gives about 0."""


@dataclass(frozen=True, slots=True)
class Space:
    """One embedding model at one precision. Vectors of two spaces are never compared and never ranked together.

    probe: a sample of a fixed text's vector, where nothing else tells one state of the model from another: a server's.
           Not part of equality, since servers' vectors differ in the last digits: see `drifted`.
    Units: `dim` in components, `max_tokens` in the model's own tokens, special ones included.
    """

    model: str
    revision: str
    precision: str
    dim: int
    max_tokens: int
    probe: tuple[float, ...] = field(default=(), compare=False)

    @property
    def id(self) -> str:
        """Stable name, safe in paths and collection names, such as ``all-MiniLM-L6-v2-53aa5117-fp32-384``."""
        model = "".join(c if c.isalnum() or c in "-." else "-" for c in self.model.rsplit("/", 1)[-1])
        return f"{model}-{self.revision[:8]}-{self.precision}-{self.dim}"

    def drifted(self, other: Space) -> bool:
        """Whether the probes say that it is another model under the same name. A space without a probe never has."""
        if not self.probe or not other.probe:
            return False
        product: float = math.fsum(map(operator.mul, self.probe, other.probe))
        lengths: float = math.hypot(*self.probe) * math.hypot(*other.probe)
        return product < SAME_MODEL * lengths


@dataclass(frozen=True, slots=True)
class Fusion:
    """How two rankings become one. `weights` are per leg, for both methods; 1.0 each by default."""

    method: Literal["rrf", "convex"] = "rrf"
    weights: Mapping[LegName, float] = field(default_factory=lambda: {"keyword": 1.0, "dense": 1.0})


@dataclass(frozen=True, slots=True)
class NamespaceSettings:
    """What an owner may choose for a namespace.

    A change of `fusion` or `candidates` holds at once; of `fields`, from the next epoch (`ragline reindex`); of the chunk
    sizes, for what is parsed from then on (`ragline reindex --reparse` for the rest).
    Units: `candidates` in hits a leg before fusion, None: as the process has it; `chunk_tokens`, `overlap_tokens` in the
    embedder's own tokens.
    """

    fields: Mapping[str, FieldType] = field(default_factory=dict)
    fusion: Fusion = field(default_factory=Fusion)
    candidates: int | None = None
    chunk_tokens: int = 200
    overlap_tokens: int = 32
    public: bool = False
    verify_within_s: float | None = None
    """The freshness limit: a document whose bytes were not sent again, or found unchanged by a sync, for so long is stale."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A namespace's serving state as one immutable snapshot. A query reads one, once; the label is in every cache key."""

    namespace: str
    uid: str
    label: str
    vectors: str
    """Physical collection in the vector store."""
    keywords: str
    """Physical index in the keyword engine."""
    space: Space
    fields: Mapping[str, FieldType]
    """The declared metadata fields, as these collections were built with them."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """One isolated corpus. `sequence` counts accepted changes; `visible` moves whenever what a reader may see has moved;
    every change up to `settled` is live, failed or deleted."""

    name: str
    uid: str
    """Random; stands in the names of its collections and blobs, so that a namespace made anew under an old name is empty."""
    sequence: int
    visible: int
    settings: NamespaceSettings
    epoch: Epoch
    building: Epoch | None
    created_at: float
    settled: int = 0
    foreign: bool = False
    """Whether it holds, or has held, documents in a language that the embedder does not know."""


@dataclass(frozen=True, slots=True)
class Document:
    """A source as it arrived, known by its `uri` (unique in the namespace).

    revision: sequence of its last accepted change (a delete is one).   content: sequence of its last accepted bytes.
    live:     the content that is indexed and served, or None.          settled: the last revision whose work is done:
              work is due exactly while ``settled < revision``, or while `sweep` says that older contents remain.
    blob:     the folder of `content`: the bytes, the text and its chunks, the vectors.  `live_blob`: that of `live`.
    garbage:  folders of contents that were replaced.
    parent:   the document that this file lies in, an archive or a mail; `root` is the outermost one, `depth` counts from
              0.  `members`: how many files lie in this one, each a document of its own.
    title:    `given_title`, else what the parser found, else the last part of the uri.
    language: of its text (ISO 639-1), where that matters to the embedder and can be told.
    Units:    `size` in bytes, times in seconds since 1970.
    """

    id: str
    namespace: str
    uri: str
    title: str
    given_title: str | None
    media_type: str | None
    size: int
    revision: int
    content: int
    live: int | None
    settled: int
    blob: str | None
    live_blob: str | None
    garbage: tuple[str, ...]
    sweep: int
    state: State
    reason: str | None
    attempt: int
    groups: Groups
    metadata: Metadata
    sha256: str
    chunks: int | None
    language: str | None
    received_at: float
    updated_at: float
    verified_at: float
    parent: str | None
    root: str | None
    depth: int
    members: int


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes and words as a client hands them over.

    `source`: the sync that brings it, if one does; `version`: by which it knows this state of the file again, or empty.
    """

    uri: str
    data: bytes
    title: str | None = None
    media_type: str | None = None
    metadata: Metadata = field(default_factory=dict)
    groups: Groups = frozenset()
    source: str | None = None
    version: str = ""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One line of a document's story, as `documents why` tells it. Units: `at` seconds since 1970, `took_s` seconds."""

    at: float
    revision: int
    attempt: int
    event: str
    detail: str
    took_s: float | None = None


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """A blob as its store lists it. Units: `size` bytes; `modified_at` seconds since 1970, None where nobody says."""

    path: str
    size: int
    modified_at: float | None


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Block:
    """A span of a parsed text with one place in its source: ``text[start:end]``; `page` counts from 1.

    `table` marks rows that belong together: one line a row, columns named, so that a row reads alone.
    """

    start: int
    end: int
    page: int | None = None
    headings: tuple[str, ...] = ()
    table: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a document: in an archive, attached to a mail. `name` is a relative path that is only a name."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser made of bytes: one text, and blocks that cover all of it that is to be found, in order, not overlapping.

    members: what becomes documents of their own.   left_out: what does not, each with its reason, in words.
    """

    text: str
    blocks: tuple[Block, ...]
    title: str | None = None
    members: tuple[Member, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk before it has a name: ``text[start:end]``, with the place of its first character."""

    start: int
    end: int
    page: int | None = None
    headings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of one content's text that is embedded and stored. `text` is exactly ``parsed.text[start:end]``.

    `id` is a UUID derived from (namespace, document, content, ordinal), see `chunking.chunk_id`.
    """

    id: str
    document: str
    content: int
    ordinal: int
    text: str
    start: int
    end: int
    page: int | None = None
    headings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A chunk as both stores hold it: its text rides along, so a query reads no SQL for text.

    `search_text` is what is embedded and what BM25 indexes (title, heading path, text). `fields` holds the declared
    metadata only, of the declared types.
    """

    chunk: Chunk
    uri: str
    title: str
    groups: Groups
    fields: Metadata
    search_text: str


# ── the chunk log ────────────────────────────────────────────────────────────────────────────────────────────────────


Topic: TypeAlias = Literal["doc_chunks", "doc_vectors"]
"""What waits for the embed stage; what waits for the index stage."""


@dataclass(frozen=True, slots=True)
class ChunkMessage:
    """A chunk on its way from stage to stage; see docs/engines/kafka.md for how it is written.

    count:   chunks of the content, all of which must arrive; `ordinal` counts from 0 to `count` - 1.
    text:    what is embedded (title, heading path, the chunk's text), not only what is cited.
    space:   id of the space of `vector`; empty: it is not embedded yet.   vector: little-endian float32, dim × 4 bytes.
    traceparent: of whoever sent it, beside the message, not in it; empty: nobody traces.
    """

    namespace: str
    doc_id: str
    chunk_id: str
    content: int
    ordinal: int
    count: int
    text: str
    space: str = ""
    vector: bytes = b""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as a reader of the log got it. `hold` numbers one holding of the part of the log that it lies in: once that
    is taken from this reader, what was delivered under it is somebody else's. `place` and `offset`: where it lies there.
    `bulk`: it came by the bulk lane.
    """

    message: ChunkMessage
    hold: int
    place: str
    offset: int
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that nobody can process, byte for byte as it was, and why. `place`: where it lay in the log."""

    value: bytes
    reason: str
    place: str


# ── queries ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, from the API key, never from the body. `namespaces` None = all."""

    principal: str
    role: Role
    namespaces: frozenset[str] | None
    groups: Groups


@dataclass(frozen=True, slots=True)
class SearchRequest:
    query: str
    namespace: str
    groups: Groups
    top_k: int = 10
    filters: Mapping[str, object] = field(default_factory=dict)
    legs: tuple[LegName, ...] = ("keyword", "dense")
    distinct: Distinct = "chunk"
    min_sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a leg returned. Scores of two scales never meet in one sum: ``bm25``, ``cosine``, ``rrf``, ``convex``,
    ``rerank:`` and the model."""

    chunk: Chunk
    uri: str
    title: str
    score: float
    scale: str
    ranks: Mapping[LegName, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passage:
    """A hit after fusion and guard, numbered from 1, as the reader and the generator get it."""

    n: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Seen:
    """What the registry said while passages were found: by it a later reader tells whether they still hold.

    uid:       of the namespace.   at: before retrieval began, in seconds since 1970.
    visible, settled: the namespace's counts, read before retrieval began: what was found is at least as new.
    documents: of each document with a passage, the last change of it whose work was done.
    exact:     False: something moved meanwhile, and what was found may be older than `documents` says.
    full:      as many passages as were asked for; else whatever is new belongs among them.
    """

    uid: str
    at: float
    visible: int
    settled: int
    documents: Mapping[str, int]
    exact: bool
    full: bool


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Passages, and what must be known to trust them.

    degraded: the steps that were skipped or failed over.  sequence: every change up to it is settled in what was read.
    cached:   they were found for somebody else before.    seen: None: the registry was away.
    Units:    timings in milliseconds by stage.
    """

    passages: tuple[Passage, ...]
    degraded: tuple[str, ...]
    epoch: str
    sequence: int
    timings_ms: Mapping[str, float]
    cached: bool = False
    seen: Seen | None = None


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages for a generator. The passages stand in the user turn, delimited and numbered: they are data."""

    query: str
    system: str
    user: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an answer as it is generated; the last one of a stream carries `usage`."""

    text: str
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A checked answer. `citations` are the passage numbers it cites; `grounded` is False when the passages do not answer;
    `cached`: it was given to somebody else before."""

    text: str
    citations: tuple[int, ...]
    retrieved: Retrieved
    generator: str
    grounded: bool
    degraded: tuple[str, ...]
    usage: Usage
    timings_ms: Mapping[str, float]
    cached: bool = False


# ── the hot cache ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Kept:
    """What a cache has under a key, and for how long it will still have it. Units: `left_s` seconds."""

    value: bytes
    left_s: float


# ── the edge ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Purge:
    """That the edge has to drop what it holds of a document, or of a whole namespace.

    namespace: a uid.   document: its id; empty: whatever there is of the namespace.
    visible:   the namespace's count with the change; what was found before has a smaller one.
    passes:    how often the edge has acknowledged it.   attempt: number of this try, from 1.
    Units:     `created_at` in seconds since 1970.
    """

    id: int
    namespace: str
    document: str
    visible: int
    created_at: float
    passes: int
    attempt: int


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class JobState(StrEnum):
    """Where an accepted question stands. `GENERATING`: it has its passages, and waits for its answer or gets it."""

    QUEUED = "queued"
    RETRIEVING = "retrieving"
    GENERATING = "generating"
    DONE = "done"
    FAILED = "failed"


QueueName: TypeAlias = Literal["retrieval", "generation"]
"""Two, so that a saturated LLM never slows retrieval."""

QUEUES: tuple[QueueName, ...] = ("retrieval", "generation")

EventName: TypeAlias = Literal[
    "queued", "retrieving", "passages", "generating", "token", "restarted", "done", "failed"
]  # fmt: skip
"""What a job tells whoever watches it; `token` many times, `restarted` when the tokens so far do not count, one of the last
two at its end."""

WORKER_LOST = '{"reason": "worker lost"}'
"""Data of the `restarted` that a claim appends, when the attempt before it had shown tokens and ended without a word."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Of both queues alike: `most` jobs in each, leased ones included; `of_namespace` of them of one namespace."""

    most: int
    of_namespace: int


@dataclass(frozen=True, slots=True)
class JobOrder:
    """A question on its way to be accepted.

    id:          32 hexadecimal digits, the first 12 the time in milliseconds: ids of later jobs are greater.
    principal:   whose job it will be.   request: as a search takes it, with the groups that the caller has now.
    webhook:     URL that is told of the end.
    idempotency_key: with it, the same order made again within `IDEMPOTENCY_S` is the same job.
    fingerprint: of all that makes it the same order: the body, and the caller's groups.
    traceparent: of the request that asked, which its workers go on with; empty: nobody traces.
    Units:       `deadline_s` from acceptance to answer.
    """

    id: str
    principal: str
    request: SearchRequest
    deadline_s: float
    fingerprint: str
    webhook: str | None = None
    idempotency_key: str | None = None
    traceparent: str = ""


IDEMPOTENCY_S = 86_400.0
"""How long an Idempotency-Key holds."""


@dataclass(frozen=True, slots=True)
class Job:
    """An accepted question. Where it stands, whose it is, and how it ended.

    queue:    where it waits or is leased; None: it has ended.
    attempt:  number of its newest claim, from 1; 0: never claimed. Every write names it, and an older one's is refused.
    retries:  how often it was begun again after it had failed.
    events:   id of its newest event; ids count from 1 without gaps.
    reason:   of a failed one, in one word (``deadline``, ``cancelled`` …), `detail` and `next_step` in sentences.
    answer:   of a done one, as `serialisation.dump_answer` writes it.
    Units:    times in seconds since 1970, by the store's clock.
    """

    id: str
    principal: str
    request: SearchRequest
    webhook: str | None
    state: JobState
    queue: QueueName | None
    attempt: int
    retries: int
    events: int
    created_at: float
    deadline_at: float
    finished_at: float | None = None
    reason: str | None = None
    detail: str = ""
    next_step: str = ""
    answer: bytes | None = None
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """`data`: a JSON object, the very text that watchers get."""

    name: EventName
    data: str = "{}"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event as it stands in the store: it never changes. `attempt`: that told it, 0: none, the store did."""

    id: int
    name: EventName
    data: str
    attempt: int
    at: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ends, all of it in one commit.

    events:  the last tokens, if any, then `done` or `failed`.   answer: of a done one.
    reason, detail, next_step: of a failed one; see `Job`.
    webhook: body of the delivery, for a job that has a webhook.
    """

    state: Literal[JobState.DONE, JobState.FAILED]
    events: tuple[NewEvent, ...]
    answer: bytes | None = None
    reason: str | None = None
    detail: str = ""
    next_step: str = ""
    webhook: bytes | None = None


@dataclass(frozen=True, slots=True)
class Wake:
    """A word from a queue that work may be due. `token` is the queue's own, by which it is settled."""

    job: str
    token: object = None


def delivery_id(job: str, retries: int) -> str:
    """The `webhook-id` of a job's end: constant over the tries to deliver it, and another one after a retry of the job."""
    return f"msg_{job}" if not retries else f"msg_{job}_{retries}"


def delivery_host(url: str) -> str:
    """Of a webhook's URL, host and port as they are written there: of the deliveries to each only some are under way."""
    return urlsplit(url).netloc.lower()


DeliveryState: TypeAlias = Literal["waiting", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """What is to be told to whoever asked for it, once.

    id:      the `webhook-id`, constant over retries.   body: the bytes that are signed and sent.
    host:    see `delivery_host`.
    attempt: number of this try, from 1; a later try refuses what an earlier one has to say.
    spent:   tries before it was replayed last: they do not count against the most that it gets.
    state:   ``waiting``, ``delivered``, or ``dead``: given up, to be replayed by hand.
    status:  HTTP status of the last answer, None: there was none.
    Units:   times in seconds since 1970.
    """

    id: str
    job: str
    principal: str
    url: str
    host: str
    body: bytes
    attempt: int
    spent: int
    state: DeliveryState
    created_at: float
    due_at: float
    status: int | None = None
    error: str = ""
