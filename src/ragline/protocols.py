"""The verbs. One protocol a role, one room a protocol, one file a vendor; each docstring is the contract.

What holds for all of them: calls are async and safe to run concurrently; CPU work and blocking I/O leave the event
loop; vendor types and vendor exceptions never leave their file: errors are of the `EngineError` branch; a cancelled
call leaves nothing behind; `aclose` may be called twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ragline.types import (
    BlobEntry,
    ChunkMessage,
    DeadLetter,
    Delivery,
    Ending,
    FieldType,
    Groups,
    Hit,
    Job,
    JobEvent,
    JobLimits,
    JobOrder,
    JobState,
    Kept,
    Metadata,
    NewEvent,
    Parsed,
    Prompt,
    QueueName,
    Record,
    Retrieved,
    Scope,
    SearchRequest,
    Space,
    Token,
    Topic,
    Wake,
    WebhookDelivery,
)

Vectors: TypeAlias = NDArray[np.float32]
Purpose: TypeAlias = Literal["query", "document"]


class Embedder(Protocol):
    """Texts to vectors of one space. A text's vector does not depend on what else is in the call."""

    @property
    def space(self) -> Space: ...

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        """Embed `texts`, in order.

        Shapes:  returns float32 (len(texts), space.dim), rows of unit length; (0, dim) for no texts.
        Tokens:  a text over `space.max_tokens` is cut there; the chunker keeps documents below it.
        Raises:  EngineError.
        """
        ...

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Character spans of the model's own tokens in `text`, in order, special tokens left out. Synchronous, CPU only.

        A token holds no white space, and does not depend on what stands beyond it.
        """
        ...

    async def aclose(self) -> None: ...


class VectorStore(Protocol):
    """Nearest neighbours by cosine, within a scope. A collection belongs to one space.

    Durability: what `upsert`, `update_payload` and `delete` have returned from survives SIGKILL.
    Atomicity:  none is promised; every call may be repeated with the same effect.
    """

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        """Make the collection; nothing happens when it exists with the same `dim`. Raises EngineRejected on another."""
        ...

    async def drop(self, collection: str) -> None:
        """Remove the collection and its files; nothing happens when it is not there."""
        ...

    async def collections(self) -> list[str]: ...

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        """Insert or replace by ``record.chunk.id``. Shapes: vectors (len(records), dim). Visible to the next search."""
        ...

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        """Replace title, groups and fields on every chunk of `document`; vectors and texts stay."""
        ...

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        """For each document id, remove its chunks whose content is smaller than the number given with it."""
        ...

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        """The `top_k` nearest chunks inside `scope`, best first.

        Shapes:  vector (dim,). Fewer hits when the scope holds fewer; ties by chunk id.
        Scale:   "cosine", in [-1, 1].
        """
        ...

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        """The books: (document, content) → number of chunks held. For audits and cut-overs, not for queries."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class ScanningVectorStore(VectorStore, Protocol):
    """One that can pass its index by, for whoever measures what that misses."""

    async def search_exactly(
        self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope
    ) -> list[Hit]:
        """As `search`, with every vector of the scope compared, however long that takes."""
        ...


class KeywordIndex(Protocol):
    """BM25 within a scope. The same verbs and promises as `VectorStore`, over `record.search_text`."""

    async def create(self, collection: str, *, fields: Mapping[str, FieldType]) -> None: ...

    async def drop(self, collection: str) -> None: ...

    async def collections(self) -> list[str]: ...

    async def upsert(self, collection: str, records: Sequence[Record]) -> None: ...

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None: ...

    async def delete(self, collection: str, below: Mapping[str, int]) -> None: ...

    async def search(self, collection: str, query: str, *, top_k: int, scope: Scope) -> list[Hit]:
        """The `top_k` best chunks for the words of `query`; any text is a valid query (no operators). Scale: "bm25", > 0."""
        ...

    async def contents(self, collection: str) -> dict[tuple[str, int], int]: ...

    async def aclose(self) -> None: ...


class Reranker(Protocol):
    """How well each text answers a query, read together with it. Scores of two scales are never compared."""

    @property
    def name(self) -> str:
        """Such as ``cohere:rerank-v3.5``."""
        ...

    @property
    def scale(self) -> str:
        """Of its scores: ``rerank:`` and the name."""
        ...

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """One finite score a text, in the order of `texts`, higher is better; [] for none.

        Order:   a text's score does not depend on the other texts, nor on their order.
        Length:  a pair over the model's context is cut there.
        Time:    nothing is retried; a caller that leaves stops what is not yet computed.
        Raises:  EngineError.
        """
        ...

    async def aclose(self) -> None: ...


class ChunkLog(Protocol):
    """Chunks between the stages: a durable log that a group of readers shares, from which nothing goes before it is done.

    Delivery:  at least once. What was appended is delivered until a reader says `done`, also after a crash of reader or
               broker, and then maybe twice and not in order: whoever reads must not mind.
    Order:     messages of one document go one after the other to one reader at a time, as they were appended.
    Lanes:     `bulk` messages are read when no fresh ones wait.
    """

    async def append(self, topic: Topic, messages: Sequence[ChunkMessage], *, bulk: bool = False) -> None:
        """Durable on every replica that is in sync, when it returns. When it raises, or is cancelled, some may be in the log.

        Raises:  EngineRejected: a message is over the limit of the log; then none is appended.  EngineError.
        """
        ...

    async def reader(self, topic: Topic) -> ChunkReader:
        """One more reader in the group of `topic`; the readers share its messages."""
        ...

    async def lag(self) -> dict[tuple[str, str], int]:
        """(topic, group) → messages that are not done, of all readers together. One truth: every process says the same."""
        ...

    async def dead_letters(self, topic: Topic, *, most: int) -> list[DeadLetter]:
        """What nobody could process, oldest first."""
        ...

    async def aclose(self) -> None: ...


class ChunkReader(Protocol):
    """One reader of a group. Used by one task at a time for `read`; `done` and `bury` from any."""

    @property
    def holds(self) -> frozenset[int]:
        """Numbers of the parts of the log that are this reader's now; see `Delivery.hold`."""
        ...

    async def read(self, *, most: int, within_s: float) -> list[Delivery]:
        """The next messages, at most `most`; none: nothing came within `within_s`. A call that is cancelled loses nothing.

        What is no valid chunk is not returned: it goes to the dead letters with its reason.
        """
        ...

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """Never deliver these again, once everything before them is done too. In any order, more than once; of a hold that is
        this reader's no more, nothing happens."""
        ...

    async def bury(self, deliveries: Sequence[Delivery], reason: str) -> None:
        """Nobody can process these: they go to the dead letters with `reason`, and are done."""
        ...

    async def aclose(self) -> None:
        """Leave the group: what is not done goes to the other readers at once."""
        ...


class Generator(Protocol):
    """A prompt to an answer, as a stream."""

    @property
    def name(self) -> str:
        """Such as ``extractive`` or ``openai:gpt-4o-mini``; shown in every answer."""
        ...

    def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        """Stream the answer; passages are cited as ``[n]``. Raises EngineError, also midway."""
        ...

    async def aclose(self) -> None: ...


class Blobs(Protocol):
    """Immutable bytes by path; paths are relative, with forward slashes."""

    async def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Write whole or not at all. `durable`: survives power loss when this returns; False for what can be made again."""
        ...

    async def get(self, path: str) -> bytes:
        """Raises NotFound."""
        ...

    async def paths(self, prefix: str) -> list[str]:
        """Paths below the folder `prefix`, sorted."""
        ...

    async def entries(self, prefix: str) -> list[BlobEntry]:
        """The same with size and age. What a killed `put` has left half is among them."""
        ...

    async def folders(self) -> list[str]:
        """Names of the folders at the top."""
        ...

    async def delete(self, prefix: str) -> None:
        """Remove the blob, or the folder, of that path; nothing happens when it is not there."""
        ...


class Parser(Protocol):
    """Bytes to text, with limits of time and memory, away from this process."""

    async def parse(self, read: Callable[[], Awaitable[bytes]], *, name: str, media_type: str | None) -> Parsed:
        """`name` is the uri, for its ending. `read` gives the bytes: it is called when they can be parsed at once, so that
        documents which wait are not in memory; maybe more than once.

        Raises DocumentRejected: the reason, in words a user understands; and whatever `read` raises.
        """
        ...

    async def aclose(self) -> None: ...


class Searcher(Protocol):
    """Passages for a query: the query path itself, or a cache before it."""

    async def search(self, request: SearchRequest) -> Retrieved: ...

    async def check(self, request: SearchRequest) -> None:
        """Raises as `search` does of a request that cannot be served as it is."""
        ...

    async def still_serves(self, request: SearchRequest, found: Retrieved) -> bool:
        """Whether all that was found is served now, and the caller may still read it."""
        ...


class Cache(Protocol):
    """Bytes by key, for a while. It may lose anything at any time; what it has, it gives as it was put.

    Bound:  so many entries, a setting, of all namespaces together: those that were asked for last.
    Time:   nothing is tried twice; whoever calls has a deadline of its own.
    """

    @property
    def name(self) -> str:
        """Such as ``memory``; shown by `ragline cache stats`."""
        ...

    async def check(self) -> None:
        """Whether it can serve at all. Raises ConfigurationError, EngineRejected: no.  EngineError: it does not answer yet."""
        ...

    async def get(self, namespace: str, key: str) -> Kept | None:
        """What was put last. It counts as asked for. `namespace`: a uid. Raises EngineError."""
        ...

    async def put(self, namespace: str, key: str, value: bytes, *, ttl_s: float) -> None:
        """Keep `value` for `ttl_s` seconds, in the place of what there is."""
        ...

    async def remove(self, namespace: str, key: str) -> None:
        """Nothing happens when it is not there."""
        ...

    async def clear(self, namespace: str) -> int:
        """Remove whatever was put under `namespace`. Returns how many entries that were."""
        ...

    async def size(self) -> int:
        """Entries, of all namespaces; about: of those whose time is over some may be counted."""
        ...

    async def aclose(self) -> None: ...


class Edge(Protocol):
    """A shared cache in front of the API, a CDN, that drops answers by the keys that they carry."""

    @property
    def name(self) -> str:
        """Such as ``varnish``."""
        ...

    def labels(self, keys: Sequence[str], *, namespace: str, visible: int) -> Mapping[str, str] | None:
        """Headers by which the edge knows an answer's keys again. None: it takes not as many, so it must not store the answer.

        `visible`: the count of `namespace` (a uid) from before the answer was looked for.
        """
        ...

    async def purge(self, keys: Sequence[str], *, namespace: str, visible: int) -> None:
        """When this returns, the edge has said of all its parts that no answer which it had stored under any of `keys` is
        served any more. Any number of keys; repeating it changes nothing.

        Late answers:  one that is on its way meanwhile may be stored afterwards, unless the edge looks at `visible`: what
                       carries a smaller one of the same namespace is too old. Whoever calls purges again therefore.
        Raises:  EngineError; some may be gone then, and some not. `Busy` says when to come again.
        """
        ...

    async def aclose(self) -> None: ...


class Popularity(Protocol):
    """How often something was asked for within about a day; for longer than any cache keeps the answer."""

    async def seen(self, key: str) -> int:
        """Count one more, and say how many that makes in the last 24 hours, about. Raises EngineError."""
        ...

    async def aclose(self) -> None: ...


class JobQueue(Protocol):
    """Wakes workers up, and no more: a job store holds the jobs, and its claim decides who does which.

    Delivery: at least once, in any order, late, twice, and now and then not at all: workers also look by the clock.
    """

    async def check(self) -> None:
        """Whether it can be worked with, for the start. Raises EngineRejected, ConfigurationError: never, as it stands.
        EngineError: not now."""
        ...

    async def notify(self, queue: QueueName, job: str) -> None:
        """Work on `job` is due. Raises EngineError: nobody was told; the job is found by the clock all the same."""
        ...

    async def wait(self, queue: QueueName, *, most: int, within_s: float) -> list[Wake]:
        """The next words, at most `most`; none: nothing came within `within_s`. A call that is cancelled loses none for good:
        they come again."""
        ...

    async def settle(self, queue: QueueName, wakes: Sequence[Wake]) -> None:
        """These were looked after: their jobs are claimed, or nothing was due. What is never settled comes again."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class PushedJobQueue(JobQueue, Protocol):
    """A queue that nobody asks: its server calls this process, whose route hands over what it says."""

    async def deliver(self, queue: QueueName, text: str, *, token: str) -> bool:
        """Give what the server says to whoever waits, and wait until it is settled. False: nobody did; let it come again.

        Raises:  Unauthenticated, Forbidden: `token` does not prove that the server calls.  EngineUnavailable: nobody can tell.
        """
        ...


class WebhookOutbox(Protocol):
    """Deliveries that are due, kept by the job store beside the jobs: a job that ends puts its own here in the same commit.

    Fence:  `attempt` names the try that a claim began; what an older one has to say is refused, and False comes back.
    """

    async def claim_deliveries(
        self, *, most: int, of_host: int, in_flight: Mapping[str, int], lease_s: float
    ) -> list[WebhookDelivery]:
        """Due ones, each now on its next attempt and this caller's until its lease ends: to each host at most `of_host`, less
        those that the caller has `in_flight` to it. Hosts take turns by their oldest one that is due, so none waits behind
        another's."""
        ...

    async def delivered(self, id: str, attempt: int, *, status: int) -> bool: ...

    async def put_off_delivery(
        self, id: str, attempt: int, *, after_s: float, status: int | None, error: str
    ) -> bool: ...

    async def bury_delivery(self, id: str, attempt: int, *, status: int | None, error: str) -> bool:
        """Given up: `state` is ``dead``."""
        ...

    async def deliveries(self, *, principal: str | None, state: str | None, most: int) -> list[WebhookDelivery]:
        """Newest first. `principal` None: of everybody."""
        ...

    async def replay_delivery(self, id: str, *, principal: str | None) -> WebhookDelivery:
        """Due at once, with the same id and body, and with all its tries before it. Raises NotFound."""
        ...


class JobStore(WebhookOutbox, Protocol):
    """The one state machine of jobs; queues only wake workers up.

        accept ─▶ queued ─claim─▶ retrieving ─retrieved─▶ generating ─finish─▶ done | failed ─retry─▶ queued …
                  queue "retrieval"                       queue "generation"    no queue

    Durability: what a call has returned from survives SIGKILL and power loss.
    Atomicity:  each call is one commit, whole or not at all.
    Fence:      every claim raises the job's `attempt`, whoever had it before. `renew`, `release`, `append`, `retrieved` and
                `finish` name the attempt that they belong to; where that is not the newest any more, or the job has ended,
                nothing changes and False comes back.
    Time:       leases, deadlines and retention are judged by one clock where the store has one (its server's), not by those of
                the processes around it.
    Events:     of one job, ids count from 1 without gaps, in the order of the commits; what was told never changes.
    """

    async def accept(self, order: JobOrder, limits: JobLimits) -> tuple[Job, bool]:
        """The job, with its event `queued`; and whether this call made it.

        A job of the same principal and `idempotency_key` that was accepted less than `IDEMPOTENCY_S` ago, and of the same
        `fingerprint`, is returned instead, in whatever state it is: before any limit is looked at.
        Of any number of concurrent calls with one key, one makes the job.
        Raises:  InvalidRequest, field ``Idempotency-Key``: of another fingerprint.
                 Overloaded: a queue, either of them, is at `limits`, or the namespace's part of it; `retry_after_s` says when a
                 place will be free at the rate of the last minute. Counted in the same commit: never one job too many.
        """
        ...

    async def get(self, id: str) -> Job:
        """Raises NotFound."""
        ...

    async def page(self, *, principal: str | None, state: JobState | None, most: int, before: str | None) -> list[Job]:
        """Newest first, below the id `before`, without their answers. `principal` None: of everybody."""
        ...

    async def claim(self, queue: QueueName, *, most: int, lease_s: float) -> list[Job]:
        """Own up to `most` of its jobs that nobody has a lease on, those first that came into the queue first, until the
        lease ends; each is on its next `attempt`. A job past its deadline is not claimed.

        Events, in the same commit: the first claim in a queue appends `retrieving` or `generating`. A claim in `generation`
        of a job whose tokens were shown, by an attempt that has not taken them back, appends `restarted` (`WORKER_LOST`).
        """
        ...

    async def claim_overdue(self, *, most: int, lease_s: float) -> list[Job]:
        """The same for jobs past their deadline, of both queues, leased ones included; without events. For whoever ends them."""
        ...

    async def renew(self, id: str, attempt: int, *, lease_s: float) -> bool: ...

    async def release(self, id: str, attempt: int, *, after_s: float) -> bool:
        """Give it back: it can be claimed in `after_s` seconds."""
        ...

    async def append(self, id: str, attempt: int, events: Sequence[NewEvent]) -> bool:
        """Tell events that end nothing."""
        ...

    async def retrieved(
        self, id: str, attempt: int, passages: bytes, *, ttl_s: float, events: Sequence[NewEvent]
    ) -> bool:
        """Keep `passages` for `ttl_s`, and move the job to `generation`, where it is due at once."""
        ...

    async def passages(self, id: str) -> bytes | None:
        """What `retrieved` has kept. None: it is gone, or there never was any."""
        ...

    async def finish(self, id: str, attempt: int, ending: Ending) -> bool:
        """End it: state, answer, events, and the delivery of its webhook, due at once, with the id `delivery_id`."""
        ...

    async def cancel(self, id: str, ending: Ending) -> Job:
        """End it whoever has it, as a newer attempt would. One that has ended stays as it is. Raises NotFound."""
        ...

    async def retry(self, id: str, *, deadline_s: float, limits: JobLimits) -> Job:
        """Begin a failed job again, from `queued`, as a newer attempt.

        Raises:  NotFound; Conflict: it has not failed; Overloaded.
        """
        ...

    async def events(self, id: str, *, after: int, most: int) -> list[JobEvent]:
        """Its events with ids above `after`, in order. Raises NotFound; Gone: they are kept no longer."""
        ...

    async def latest(self, ids: Sequence[str]) -> dict[str, int]:
        """Id of the newest event of each of these; unknown jobs are left out. For a look at all that are watched."""
        ...

    def watch(self, told: Callable[[str | None], None]) -> None:
        """From now on call `told` soon after any process has told events of a job, with the job's id, on this event loop. Now
        and then more often than needed. None: some may have been missed, look at all. One watcher a process."""
        ...

    async def lengths(self) -> dict[QueueName, int]:
        """Jobs in each queue, waiting or leased. One truth: every process says the same."""
        ...

    async def hold(self, duty: str, *, holder: str, lease_s: float) -> bool:
        """Whether `duty` is `holder`'s for the next `lease_s`: of all processes one has it, until its lease ends. The holder
        asks again in time, and goes on holding it."""
        ...

    async def upkeep(self, *, events_s: float, jobs_s: float) -> int:
        """Forget: the events of jobs that ended `events_s` ago; jobs that ended `jobs_s` ago, with deliveries that do not wait;
        passages past their time. Returns how many jobs are forgotten."""
        ...

    async def aclose(self) -> None: ...
