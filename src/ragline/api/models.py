"""Bodies of requests and responses: the interface others script against."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ragline.errors import InvalidRequest
from ragline.findings import Kind, Remedy
from ragline.redrive import Done
from ragline.registry.staleness import Why
from ragline.types import DeliveryState, FieldType, JobState

NAMESPACE = Field("default", description="The corpus to search.", examples=["default"])


MOST_SEQUENCE = 2**63 - 1
"""The largest sequence number the registry can hold."""

Weight = Annotated[float, Field(allow_inf_nan=False, le=1_000_000)]
"""Bounded, so that no weighted score overflows."""


class Encodable(BaseModel):
    """A body whose every text, however deep, is fit for UTF-8: JSON can carry half of a surrogate pair, no engine can."""

    @model_validator(mode="before")
    @classmethod
    def _check(cls, body: object) -> object:
        """Raises InvalidRequest, which is no ValueError and so reaches the client as it is, naming the field."""
        if isinstance(body, dict):
            for name, value in body.items():
                check_encodable(value, str(name))
        return body


class Strict(Encodable):
    model_config = ConfigDict(extra="forbid")


class FusionBody(Strict):
    method: Literal["rrf", "convex"] = "rrf"
    weights: dict[Literal["keyword", "dense"], Weight] = Field({"keyword": 1.0, "dense": 1.0})


class NamespaceBody(Strict):
    """Settings of a namespace. Left out: as it is, or the default for a new one."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"fields": {"year": "integer"}}]})

    fields: dict[str, FieldType] | None = Field(None, description="Filterable metadata; holds from the next re-index.")
    fusion: FusionBody | None = None
    candidates: int | None = Field(None, ge=1, le=1000, description="Hits a leg before fusion; holds at once.")
    chunk_tokens: int | None = Field(None, ge=32, le=2048, description="Largest chunk, in the embedder's tokens.")
    overlap_tokens: int | None = Field(None, ge=0, le=512)
    public: bool | None = Field(
        None, description="Anybody may search it by GET, without a key, and shared caches may store the answers."
    )
    verify_within_s: float | None = Field(
        None, ge=0, allow_inf_nan=False,
        description="Freshness limit: documents that no upload or sync has confirmed for so long count as stale; 0: no limit.",
    )  # fmt: skip


class SearchBody(Strict):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": "How long do I have to return an item?", "top_k": 5}]},
    )

    query: str
    namespace: str = NAMESPACE
    top_k: int = Field(10, description="Passages returned.")
    filters: dict[str, Any] = Field({}, description="{field: value | [values] | {gte, lte}}; all must hold.")
    legs: list[Literal["keyword", "dense"]] = Field(["keyword", "dense"])
    distinct: Literal["chunk", "document"] = "chunk"
    min_sequence: int | None = Field(
        None, ge=0, le=MOST_SEQUENCE, description="Wait until every change up to it is visible."
    )


class AnswerBody(Strict):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": "How long do I have to return an item?"}]}
    )

    query: str
    namespace: str = NAMESPACE
    top_k: int = 8
    filters: dict[str, Any] = {}
    stream: bool = Field(False, description="Server-sent events: passages, token …, done.")
    min_sequence: int | None = Field(None, ge=0, le=MOST_SEQUENCE)


class PassageOut(BaseModel):
    n: int
    document: str
    uri: str
    title: str
    chunk: str
    text: str
    start: int = Field(description="First character in the document's text.")
    end: int
    page: int | None = None
    headings: list[str]
    score: float
    scale: str = Field(description="Of the score: rrf, convex, bm25, cosine, or rerank: and the model.")
    ranks: dict[str, int] = Field(description="The passage's rank in each leg that found it, from 1.")


class SearchOut(BaseModel):
    passages: list[PassageOut]
    degraded: list[str] = Field(description="Steps that were skipped or failed over; empty when all is well.")
    epoch: str
    sequence: int = Field(description="Every change up to it was visible to this search.")
    cached: bool = Field(description="Found for somebody else before; checked to hold still.")
    timings_ms: dict[str, float]


class BatchOut(BaseModel):
    results: list[SearchOut]


class UsageOut(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class AnswerOut(BaseModel):
    answer: str
    citations: list[int] = Field(description="Numbers of the passages the answer cites.")
    passages: list[PassageOut]
    generator: str
    grounded: bool = Field(description="False: the documents do not answer the question, and the answer says so.")
    degraded: list[str]
    cached: bool = Field(description="Given to somebody else before; its passages were checked to hold still.")
    usage: UsageOut
    timings_ms: dict[str, float]


class QueryBody(Strict):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": "How long do I have to return an item?"}]}
    )

    query: str
    namespace: str = NAMESPACE
    top_k: int = 8
    filters: dict[str, Any] = {}
    webhook: str | None = Field(None, description="https:// address that is told of the end, signed: docs/webhooks.md.")
    deadline_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="From now to the answer; then it ends `failed`."
    )
    min_sequence: int | None = Field(None, ge=0, le=MOST_SEQUENCE)


class RetryBody(Strict):
    deadline_s: float | None = Field(None, gt=0, allow_inf_nan=False, description="From now to the answer.")


class QueryAccepted(BaseModel):
    job_id: str
    state: JobState
    events_url: str


class JobError(BaseModel):
    reason: str = Field(description="In one word: deadline, cancelled, not_found …")
    detail: str
    next_step: str


class JobOut(BaseModel):
    job_id: str
    state: JobState
    query: str
    namespace: str
    top_k: int
    filters: dict[str, Any]
    min_sequence: int | None = None
    webhook: str | None = None
    attempt: int = Field(description="Claims by workers so far.")
    retries: int = Field(description="How often it was begun again after it had failed.")
    created_at: float = Field(description="Seconds since 1970.")
    deadline_at: float
    finished_at: float | None = None
    events_url: str
    error: JobError | None = Field(None, description="Of a failed one.")
    answer: AnswerOut | None = Field(None, description="Of a done one; lists leave it out.")


class DeliveryOut(BaseModel):
    id: str = Field(description="The header `webhook-id`, the same at every try.")
    job_id: str
    principal: str
    url: str = Field(description="Whole for its owner, the host alone for others.")
    state: DeliveryState
    attempts: int
    created_at: float = Field(description="Seconds since 1970.")
    due_at: float | None = Field(None, description="Of a waiting one: when it is tried next.")
    status: int | None = Field(None, description="HTTP status of the last answer.")
    error: str | None = None


class DeliveriesOut(BaseModel):
    deliveries: list[DeliveryOut]


class JobsOut(BaseModel):
    jobs: list[JobOut]
    next: str | None = Field(None, description="Give it as `before` for the next page.")


class DocumentBrief(BaseModel):
    id: str | None = None
    uri: str
    revision: int | None = None
    state: str
    reason: str | None = None
    retryable: bool | None = Field(
        None, description="Of one that is `refused`: whether sending it again may help; an engine may have been away."
    )
    outcome: str | None = Field(None, description="created, updated, payload (only words changed) or unchanged.")


class Accepted(BaseModel):
    documents: list[DocumentBrief]
    sequence: int = Field(description="Give it to a search as `min_sequence` to be sure of finding these.")


class AuditBody(Strict):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"mend": False}]})

    namespaces: list[str] | None = Field(None, description="Only these; null: all that the key may see.")
    mend: bool = Field(False, description="Do about each finding what its remedy says.")


class FindingOut(BaseModel):
    kind: Kind
    namespace: str
    document: str | None = None
    uri: str | None = None
    place: str = Field(description="A collection, a blob's path, an epoch, or `registry`.")
    detail: str
    remedy: Remedy = Field(description="What mending does about it.")
    next_step: str
    mended: str | None = Field(None, description="With `mend`: what was done; null: it needs somebody.")


class AuditOut(BaseModel):
    namespaces: int
    documents: int = Field(description="Rows compared, tombstones included.")
    chunks: int
    blobs: int
    due: int = Field(description="Documents with work due: no fault as long as they keep their deadlines.")
    moving: int = Field(description="Documents that kept changing and were not judged.")
    findings: list[FindingOut]


class RedrivenOut(BaseModel):
    id: str
    namespace: str
    uri: str
    why: Why = Field(description="content: newer bytes are not live; unverified: its source was not looked at in time.")
    since: float = Field(description="When the newer bytes came, or when it was verified last; seconds since 1970.")
    done: Done


class RedriveOut(BaseModel):
    counts: dict[Done, int]
    documents: list[RedrivenOut] = Field(description="Stale for longest first, at most 1,000.")


class CacheOut(BaseModel):
    cache: str | None = Field(description="memory or redis; null: there is none.")
    entries: int | None = Field(description="About; null: it does not answer.")
    left_out: bool = Field(description="It fails, and queries go on without it until it is back.")
    requests: dict[str, dict[str, int]] = Field(description="Looks since this process began, by kind and outcome.")
    audits: dict[str, int] = Field(description="Hits that were searched again and compared, by verdict.")


class EngineOut(BaseModel):
    name: str = Field(description="keyword, dense, registry, cache, reranker or generator:NAME.")
    left_out: bool = Field(description="It fails or is slow: nobody waits for it until a probe finds it back.")
    since: float = Field(description="When it began to be so, in seconds since 1970.")
    p95_ms: float | None = Field(description="Of the last calls; null: too few to say.")
    deadline_ms: float | None = Field(description="How long a query waits for it now; null: it has a fixed limit.")
    last_error: str | None
    last_error_at: float | None


class StatusOut(BaseModel):
    version: str
    engines: list[EngineOut] = Field(description="As the process has seen them that answers.")
    documents_waiting: int | None = Field(description="With a change that is not settled; null: the registry is away.")
    queues: dict[str, int | None] = Field(
        description="Jobs, waiting or at work, by queue; null: the job store is away."
    )


class CacheCleared(BaseModel):
    namespace: str
    entries: int


class CacheForgotten(BaseModel):
    document: str
    uri: str
    state: str
    live: int | None = Field(description="The content that is served; null: none.")
    visible: int = Field(description="The namespace's count, which every entry is compared with.")
    sequence: int


class KeyBody(Strict):
    principal: str = Field(min_length=1, max_length=200, description="Whom the key stands for; jobs belong to it.")
    role: Literal["read", "write", "admin"] = "read"
    namespaces: list[str] | None = Field(None, description="Where it is good; null: everywhere.")
    groups: list[str] = Field([], description="Which documents it may read besides those open to everyone.")
    expires_in_s: float | None = Field(None, gt=0, allow_inf_nan=False)


class EmbeddingsBody(Encodable):
    """As of the OpenAI API; `input_type` is ours."""

    model: str = ""
    input: str | list[str]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    input_type: Literal["query", "document"] | None = Field(
        None, description="Queries go first; left out: one text is a query, a list is documents."
    )


def check_encodable(value: object, field: str) -> None:
    """Raises InvalidRequest naming `field`: a text in `value` is not fit for UTF-8. Without recursion: any depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            if not _is_encodable(one):
                raise InvalidRequest(
                    f"{field} holds half of a surrogate pair, which is not a character.",
                    next_step="Send valid Unicode.",
                    field=field,
                )
        elif isinstance(one, dict):
            waiting += (*one.keys(), *one.values())
        elif isinstance(one, list):
            waiting += one


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_value(text: str, field: str) -> object:
    """What a form field or a query parameter holds, as JSON knows it: without NaN. Raises InvalidRequest naming it."""
    try:
        value = cast(object, json.loads(text, parse_constant=_no_constant))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field} is not valid JSON: {error}.", next_step="Correct it.", field=field) from error
    check_encodable(value, field)
    return value


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def json_object(text: str, field: str) -> dict[str, Any]:
    value = json_value(text, field)
    if not isinstance(value, dict):
        step = 'Send it as {"name": "value"}, or {} for none.'
        raise InvalidRequest(f"{field} must be a JSON object.", next_step=step, field=field)
    return value
