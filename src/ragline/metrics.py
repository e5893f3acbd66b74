"""Every metric name and label, and the timer of stages. Names are part of the interface: add, never rename."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ragline import tracing

REGISTRY = CollectorRegistry()
"""Our own, so that `import ragline` in somebody else's process adds nothing to theirs."""

LATENCY_MS = (1, 2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10_000, 30_000)
"""Bucket bounds in milliseconds; exactly 150, 200 and 1000 are among them, because the objectives stand there."""

retrieval_latency_ms = Histogram(
    "retrieval_latency_ms", "Retrieval, by stage (total, embed, fuse, guard, rerank) or leg; cached: of a hit, all of it.",
    ["stage"],
    buckets=LATENCY_MS, registry=REGISTRY,
)  # fmt: skip
generation_latency_ms = Histogram(
    "generation_latency_ms", "A whole generation.", ["generator"], buckets=LATENCY_MS, registry=REGISTRY
)
time_to_first_token_ms = Histogram(
    "time_to_first_token_ms", "From the request to the first token.", ["generator"], buckets=LATENCY_MS,
    registry=REGISTRY,
)  # fmt: skip
ingest_latency_ms = Histogram(
    "ingest_latency_ms", "One document's stage: parse (of it parser: while a child has it), embed, index.", ["stage"],
    buckets=LATENCY_MS, registry=REGISTRY,
)  # fmt: skip
retrieval_errors_total = Counter("retrieval_errors", "Failed legs and searches.", ["leg", "error"], registry=REGISTRY)
ann_recall = Histogram(
    "ann_recall", "Of a share of dense searches (query.recall_share): what the index found of what an exact search finds.",
    buckets=(0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0), registry=REGISTRY,
)  # fmt: skip
searches_total = Counter(
    "searches", "Searches as their callers saw them: answered, degraded, failed, refused (overload), rejected (the request is "
    "wrong), abandoned (nobody waited). Hits of the cache count.",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip
degraded_total = Counter("degraded", "Answers and searches that left a step out.", ["step"], registry=REGISTRY)
searches_in_flight = Gauge("searches_in_flight", "Searches under way in this process.", registry=REGISTRY)
search_places = Gauge("search_places", "How many may be; it follows how long they take.", registry=REGISTRY)
refused_total = Counter("searches_refused", "Searches refused because too many were under way.", registry=REGISTRY)
documents_total = Counter("documents", "Documents by how a revision ended.", ["outcome"], registry=REGISTRY)
documents_waiting = Gauge("documents_waiting", "Documents with a change that is not settled.", registry=REGISTRY)
oldest_waiting_document_s = Gauge(
    "oldest_waiting_document_s", "Age of the oldest change that is not settled, from a document's newest one.",
    registry=REGISTRY,
)  # fmt: skip
served_documents = Gauge("served_documents", "Documents that have something to serve.", registry=REGISTRY)
stale_documents = Gauge(
    "stale_documents", "Of these, with newer bytes that are not live in time (content), or not verified in time.", ["why"],
    registry=REGISTRY,
)  # fmt: skip
stale_passage_ratio = Gauge(
    "stale_passage_ratio", "Stale documents of those that are served; 0 where none is.", registry=REGISTRY
)
redrives_total = Counter(
    "stale_redrives", "Stale documents that a re-drive has looked at, by what it did.", ["done"], registry=REGISTRY
)
redriven_total = Counter(
    "documents_redriven", "Documents claimed again after an interrupted attempt.", registry=REGISTRY
)
audit_findings = Gauge(
    "audit_findings", "What the last audit of everything found, by kind.", ["kind"], registry=REGISTRY
)
mended_total = Counter("audit_mended", "Findings that were mended, by kind.", ["kind"], registry=REGISTRY)
orphans_collected_total = Counter(
    "orphans_collected", "Blobs and folders deleted that nobody owned.", registry=REGISTRY
)
tombstones_purged_total = Counter("tombstones_purged", "Deleted documents forgotten for good.", registry=REGISTRY)
stalled_total = Counter(
    "attempts_stalled", "Attempts stopped because they made no step within the deadline.", ["stage"], registry=REGISTRY
)
leases_ended_total = Counter("leases_ended", "Leases ended that a clock set back had made endless.", registry=REGISTRY)
chunks_total = Counter("chunks_indexed", "Chunks written to both stores.", registry=REGISTRY)
consumer_lag = Gauge(
    "consumer_lag", "Messages of the chunk log that are not done, of all readers together.", ["topic", "group"],
    registry=REGISTRY,
)  # fmt: skip
log_messages_total = Counter(
    "log_messages", "Messages of the chunk log by what became of them here: embedded, indexed, late.",
    ["topic", "outcome"], registry=REGISTRY,
)  # fmt: skip
dead_letters_total = Counter(
    "dead_letters", "Messages of the chunk log that went to the dead letters.", ["topic"], registry=REGISTRY
)
cache_requests_total = Counter(
    "cache_requests", "Looks into a cache, by tier (hot), kind (search, answer) and what became of them: hit, or else.",
    ["tier", "kind", "outcome"], registry=REGISTRY,
)  # fmt: skip
cache_errors_total = Counter(
    "cache_errors", "Calls of a cache that failed or were late.", ["tier", "error"], registry=REGISTRY
)
cache_unusable_total = Counter(
    "cache_unusable", "Entries of a cache that were not ours, of another version or damaged.", ["tier", "fault"],
    registry=REGISTRY,
)  # fmt: skip
left_out = Gauge(
    "engine_left_out", "1 while an engine is left out because it fails or is slow.", ["engine"], registry=REGISTRY
)
cache_audits_total = Counter(
    "cache_audits", "Hits that were searched again and compared: same, differs, moved, wrong, failed.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
cache_wrong_total = Counter(
    "cache_wrong", "Passages served from a cache that were not live, or not the caller's to read.", registry=REGISTRY
)
queue_length = Gauge(
    "queue_length", "Jobs in a queue, waiting or leased: one truth, exported by the one process that holds the duty.",
    ["queue"], registry=REGISTRY,
)  # fmt: skip
jobs_total = Counter(
    "jobs", "Jobs by what became of them here: accepted, known (same Idempotency-Key), refused, done, or a failure's reason.",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip
job_latency_ms = Histogram(
    "job_latency_ms", "A job: retrieval and generation, from its claim; total, from its acceptance.", ["stage"],
    buckets=(*LATENCY_MS, 60_000, 120_000, 300_000, 600_000), registry=REGISTRY,
)  # fmt: skip
job_attempts_total = Counter(
    "job_attempts", "Claims of jobs by how they ended: finished, put_off, stopped, lost.", ["queue", "how"],
    registry=REGISTRY,
)  # fmt: skip
job_watchers = Gauge("job_watchers", "Clients that follow the events of a job in this process.", registry=REGISTRY)
webhook_deliveries_total = Counter(
    "webhook_deliveries", "Tries to deliver a webhook by what became of them: delivered, put_off, dead, lost (to a later try), "
    "unwritten.",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip
citations_removed_total = Counter("citations_removed", "Citations that pointed nowhere.", registry=REGISTRY)
tokens_total = Counter(
    "generation_tokens", "Tokens of models, also of attempts that failed: prompt, completion; as the generator reports them, or "
    "estimated.",
    ["generator", "kind", "namespace", "counted"], registry=REGISTRY,
)  # fmt: skip
cost_total = Counter(
    "generation_cost", "What these tokens cost, in the currency of the generator's prices; nothing without them.",
    ["generator", "namespace", "counted"], registry=REGISTRY,
)  # fmt: skip
edge_answers_total = Counter(
    "edge_answers", "Answers for popular queries of public namespaces, by whether the edge may store them.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
edge_purges_total = Counter(
    "edge_purges", "Purges by how they ended: done (the first time), again (the second), failed.", ["outcome"],
    registry=REGISTRY,
)  # fmt: skip
edge_purge_lag = Gauge(
    "edge_purge_lag", "Age in seconds of the oldest purge that the edge has not acknowledged.", registry=REGISTRY
)
edge_purges_waiting = Gauge("edge_purges_waiting", "Purges that the edge has not acknowledged once.", registry=REGISTRY)
http_requests_total = Counter("http_requests", "Requests by route and status.", ["route", "status"], registry=REGISTRY)


spans_total = Counter(
    "trace_spans", "Spans by what became of them: sent, not taken (by the collector), no room (in the queue before it).",
    ["outcome"], registry=REGISTRY,
)  # fmt: skip


class stage:
    """Time a stage into `timings_ms[name]`, and into `histogram` under the same name; a span of it where the trace is recorded.

    A class, because several stand around every search, and a generator takes three times as long.
    """

    __slots__ = ("_histogram", "_name", "_span", "_start", "_timings_ms")

    def __init__(
        self,
        timings_ms: MutableMapping[str, float],
        name: str,
        histogram: Histogram | None = None,
        *,
        span: bool = True,
    ) -> None:
        """`span`: False where another stage says the same."""
        self._timings_ms = timings_ms
        self._name = name
        self._histogram = histogram
        self._span: tracing.span | None = None
        current = tracing.CURRENT.get()
        if span and current is not None and current.recorded:
            self._span = tracing.span(name)

    def __enter__(self) -> None:
        if self._span is not None:
            self._span.__enter__()
        self._start = time.perf_counter()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        took = (time.perf_counter() - self._start) * 1000
        if self._span is not None:
            self._span.__exit__(kind, error, trace)
        self._timings_ms[self._name] = round(took, 3)
        if self._histogram is not None:
            _child(self._histogram, self._name).observe(took)


@cache
def _child(histogram: Histogram, name: str) -> Histogram:
    """Looking a label up takes longer than observing it, and stages are few."""
    return histogram.labels(name)
