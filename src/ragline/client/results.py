"""What the server answers, typed. A field that a newer server has added is passed over, and a new word for a state is kept:
states are plain text, so that an older client still reads them.

Units: times in seconds since 1970, sizes in bytes, `timings_ms` in milliseconds by stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Kind = TypeVar("Kind", bound=DataclassInstance)

# ── searches and answers ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Passage:
    """A place in a document that was found: ``document's text[start:end]``; `n` counts from 1, and answers cite it as [n].

    `score` is on the scale that `scale` names; two scales cannot be compared. `ranks`: in each leg that found it, from 1.
    """

    n: int
    document: str
    uri: str
    title: str
    chunk: str
    text: str
    start: int
    end: int
    headings: tuple[str, ...]
    score: float
    scale: str
    ranks: Mapping[str, int]
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Passages, best first.   degraded: steps that were skipped or failed over.   sequence: every change up to it was visible.
    cached: found for somebody else before, and checked to hold still."""

    passages: tuple[Passage, ...]
    degraded: tuple[str, ...]
    epoch: str
    sequence: int
    cached: bool
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A checked answer. `citations`: numbers of the passages that it cites. `grounded` False: the documents do not answer, and
    the answer says so."""

    text: str
    citations: tuple[int, ...]
    passages: tuple[Passage, ...]
    generator: str
    grounded: bool
    degraded: tuple[str, ...]
    cached: bool
    usage: Usage
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Token:
    """Text to append to what is shown."""

    text: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """What was shown does not count any more."""

    reason: str


AnswerEvent: TypeAlias = Found | Token | Restarted | Answer
"""Of a streamed answer: passages first, the whole answer last."""

# ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

LAST = ("done", "failed")
"""States, and events, that a job ends with; a failed one may be begun again."""


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """`state`: queued, or wherever the job stands that was asked for by the same Idempotency-Key before."""

    id: str
    state: str


@dataclass(frozen=True, slots=True)
class JobError:
    """`reason` in one word: deadline, cancelled, not_found …"""

    reason: str
    detail: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Job:
    """A question that is answered later. `state`: queued, retrieving, generating, done or failed.

    `error`: of a failed one; `answer`: of a done one, except in lists.
    """

    id: str
    state: str
    query: str
    namespace: str
    top_k: int
    filters: Mapping[str, Any]
    attempt: int
    retries: int
    created_at: float
    deadline_at: float
    finished_at: float | None = None
    min_sequence: int | None = None
    webhook: str | None = None
    error: JobError | None = None
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What a job tells; `id` counts from 1 without gaps. `name`: queued, retrieving, passages, generating, token, restarted,
    done or failed. `data`: as it was sent."""

    id: int
    name: str
    data: Mapping[str, Any]

    @property
    def text(self) -> str:
        """Of a `token`: to be appended; else empty."""
        return str(self.data["text"]) if self.name == "token" else ""

    @property
    def answer(self) -> Answer | None:
        """Of `done`."""
        return answer(self.data) if self.name == "done" else None

    @property
    def error(self) -> JobError | None:
        """Of `failed`."""
        return _of(JobError, self.data) if self.name == "failed" else None


# ── documents and namespaces ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A file whose bytes are safe. `outcome`: created, updated, payload (only words changed) or unchanged; after a cut the
    client sends it again, and the second time it is unchanged.

    sequence: give it to a search as `min_sequence` to be sure of finding it.
    """

    id: str
    uri: str
    revision: int
    state: str
    outcome: str
    namespace: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Document:
    """`state`: received, chunked, indexed, failed or deleted, of its newest revision; `reason`: why it failed.

    live: the content that is served, None: none.   settled: the last revision whose work is done.
    parent: the document it lies in; members: how many lie in it.
    """

    id: str
    namespace: str
    uri: str
    title: str
    state: str
    revision: int
    settled: int
    size: int
    sha256: str
    groups: tuple[str, ...]
    metadata: Mapping[str, Any]
    received_at: float
    updated_at: float
    live: int | None = None
    reason: str | None = None
    media_type: str | None = None
    chunks: int | None = None
    language: str | None = None
    parent: str | None = None
    members: int = 0


@dataclass(frozen=True, slots=True)
class Deleted:
    """`inside`: how many files lay in it, and went with it."""

    id: str
    uri: str
    sequence: int
    inside: int


@dataclass(frozen=True, slots=True)
class NamespaceSettings:
    fields: Mapping[str, str]
    chunk_tokens: int
    overlap_tokens: int
    public: bool
    candidates: int | None = None


@dataclass(frozen=True, slots=True)
class Namespace:
    """`documents`: by state, and `chunks`: only where one namespace is shown."""

    name: str
    sequence: int
    visible: int
    epoch: str
    created_at: float
    settings: NamespaceSettings
    documents: Mapping[str, int] = field(default_factory=dict)
    chunks: int | None = None


# ── from JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────
# Each raises KeyError, TypeError or ValueError where the server says something else than it should.


def found(data: Mapping[str, Any]) -> Found:
    return _of(Found, data, passages=_passages(data))


def answer(data: Mapping[str, Any]) -> Answer:
    return _of(Answer, data, text=data["answer"], passages=_passages(data), usage=_of(Usage, data["usage"]))


def job(data: Mapping[str, Any]) -> Job:
    error, last = data.get("error"), data.get("answer")
    return _of(
        Job, data, id=data["job_id"], error=None if error is None else _of(JobError, error),
        answer=None if last is None else answer(last),
    )  # fmt: skip


def jobs(data: Mapping[str, Any]) -> tuple[Job, ...]:
    return tuple(map(job, data["jobs"]))


def accepted_job(data: Mapping[str, Any]) -> AcceptedJob:
    return _of(AcceptedJob, data, id=data["job_id"])


def job_event(id: str, name: str, data: str) -> JobEvent:
    return JobEvent(int(id), name, json.loads(data))


def uploaded(data: Mapping[str, Any], *, namespace: str) -> Uploaded:
    (one,) = data["documents"]
    return _of(Uploaded, one, namespace=namespace, sequence=data["sequence"])


def document(data: Mapping[str, Any]) -> Document:
    return _of(Document, data)


def documents(data: Mapping[str, Any]) -> tuple[Document, ...]:
    return tuple(map(document, data["documents"]))


def deleted(data: Mapping[str, Any]) -> Deleted:
    return _of(Deleted, data)


def namespace(data: Mapping[str, Any]) -> Namespace:
    return _of(Namespace, data, settings=_of(NamespaceSettings, data["settings"]))


def namespaces(data: Mapping[str, Any]) -> tuple[Namespace, ...]:
    return tuple(map(namespace, data["namespaces"]))


def nothing(_: Mapping[str, Any]) -> None:
    return None


def answer_event(name: str, data: Mapping[str, Any]) -> AnswerEvent | None:
    """None: nothing that this client knows."""
    match name:
        case "passages":
            return found(data)
        case "token":
            return _of(Token, data)
        case "restarted":
            return _of(Restarted, data)
        case "done":
            return answer(data)
        case _:
            return None


def _passages(data: Mapping[str, Any]) -> tuple[Passage, ...]:
    return tuple(_of(Passage, one) for one in data["passages"])


def _of(kind: type[Kind], data: Mapping[str, Any], **own: Any) -> Kind:
    """The fields of `kind` that `data` has, lists as tuples; `own` stand instead of what `data` says."""
    names = {one.name for one in fields(kind)}
    given = {name: _frozen(value) for name, value in data.items() if name in names}
    return kind(**given | own)


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
