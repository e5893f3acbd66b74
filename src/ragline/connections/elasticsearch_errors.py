"""What Elasticsearch's errors, and its client's, mean to us.

A reason of Elasticsearch may hold the text of a document: only its type, a fixed word, is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import elastic_transport
from elastic_transport import ApiError
from elasticsearch import UnsupportedProductError

from ragline.errors import EngineDenied, EngineError, EngineRejected, EngineTimeout, EngineUnavailable

OLDEST = (9, 3)
"""Since then vectors are taken as base64, which makes an upsert half as long."""

AWAY = "Check that Elasticsearch runs, and that host and port in the URL are its; TLS is elasticsearchs://."
BUSY = "It goes on by itself when the cluster has room; a larger one, or fewer writers, if that lasts."
REBUILD = "Run `ragline reindex NAMESPACE` to build it again."
SMALLER = (
    "Make the chunks smaller, or raise http.max_content_length of the cluster, or the limit of the proxy before it."
)
OLD = f"Use Elasticsearch {OLDEST[0]}.{OLDEST[1]} or newer."
NOT_IT = "Correct the URL: OpenSearch, and proxies that hide the header X-Elastic-Product, do not serve."

_Row = tuple[type[EngineError], str, str]

BY_TYPE: dict[str, _Row] = {
    "index_not_found_exception": (EngineRejected, "The index is not there.", REBUILD),
    "index_closed_exception": (EngineRejected, "The index is closed.", "Open it, or: " + REBUILD),
    "cluster_block_exception": (
        EngineUnavailable,
        "The index takes no writes: a disk of the cluster is nearly full (flood-stage watermark), or it is read-only.",
        "Free space on the cluster's disks, or set index.blocks.read_only_allow_delete to null; the work goes on then.",
    ),
    "es_rejected_execution_exception": (EngineUnavailable, "The cluster's queues are full.", BUSY),
    "circuit_breaking_exception": (EngineUnavailable, "The cluster has no memory left for it.", BUSY),
    "master_not_discovered_exception": (EngineUnavailable, "The cluster has no master.", "Look at its nodes."),
    "no_shard_available_action_exception": (EngineUnavailable, "No copy of a shard is there.", "Look at its nodes."),
    "unavailable_shards_exception": (EngineUnavailable, "No copy of a shard is there.", "Look at its nodes."),
    "process_cluster_event_timeout_exception": (EngineTimeout, "The cluster's master did not get to it.", BUSY),
    "version_conflict_engine_exception": (EngineError, "Others change the same chunks.", "The call is tried again."),
    "security_exception": (
        EngineDenied, "This user may not do that.",
        "Give it the privileges that docs/engines/elasticsearch.md names, or correct user and password in the URL.",
    ),
    "media_type_header_exception": (EngineRejected, "The server is older than this version supports.", OLD),
    "document_parsing_exception": (EngineRejected, "A record does not fit the index's mapping.", REBUILD),
    "mapper_parsing_exception": (EngineRejected, "The index cannot be made so.", "Report it: a mapping is refused."),
    "strict_dynamic_mapping_exception": (EngineRejected, "A record has a field that the index lacks.", REBUILD),
    "too_many_nested_clauses": (EngineRejected, "The query has too many words.", "Ask a shorter one."),
    "too_many_clauses": (EngineRejected, "The query has too many words.", "Ask a shorter one."),
    "content_too_long_exception": (EngineRejected, "A record is larger than Elasticsearch takes.", SMALLER),
    "validation_exception": (
        EngineRejected, "The cluster's limits do not allow it.",
        "Raise cluster.max_shards_per_node, or drop indices that nobody reads.",
    ),
}  # fmt: skip
"""The type that an answer names → what we say."""

BY_STATUS: dict[int, _Row] = {
    400: (EngineRejected, "It refuses the request.", "Look at the cluster's log; report it if the log says no more."),
    401: (EngineDenied, "User, password or API key are wrong.", "Correct them in the URL."),
    403: BY_TYPE["security_exception"],
    404: (EngineRejected, "It does not know what was asked for.", NOT_IT),
    405: (EngineRejected, "It does not know what was asked for.", NOT_IT),
    408: (EngineTimeout, "It did not answer in time.", AWAY),
    409: BY_TYPE["version_conflict_engine_exception"],
    413: BY_TYPE["content_too_long_exception"],
    429: BY_TYPE["es_rejected_execution_exception"],
    502: (EngineUnavailable, "The proxy before it reaches no node.", AWAY),
    503: (EngineUnavailable, "It cannot serve now.", AWAY),
    504: (EngineTimeout, "The proxy before it got no answer in time.", AWAY),
}
"""Where the type is not known. Of a cluster with its own words or not: a proxy's answer has a status alone."""

BY_CLASS: tuple[tuple[type[Exception], _Row], ...] = (
    (UnsupportedProductError, (EngineRejected, "What answers is not Elasticsearch.", NOT_IT)),
    (
        elastic_transport.TlsError,
        (EngineRejected, "TLS failed: the certificate is not trusted, or the port speaks no TLS.",
         "Name the authority's file by `ca` behind the URL; or write elasticsearch:// where there is no TLS."),
    ),
    (elastic_transport.ConnectionTimeout, (EngineTimeout, "It did not answer in time.", AWAY)),
    (elastic_transport.ConnectionError, (EngineUnavailable, "It cannot be reached.", AWAY)),
    (elastic_transport.SniffingError, (EngineUnavailable, "It cannot be reached.", AWAY)),
    (elastic_transport.SerializationError, (EngineRejected, "What answers is not Elasticsearch.", NOT_IT)),
    (elastic_transport.TransportError, (EngineUnavailable, "It cannot be reached.", AWAY)),
)  # fmt: skip
"""What the client raises without an answer's status; the first that fits."""

UNFORESEEN: _Row = (EngineError, "It failed in a way this adapter does not know.", "Look at the cluster's log.")


def kind_of(error: ApiError) -> str:
    """The type that the answer names; empty where it names none."""
    body = error.body
    told = body.get("error") if isinstance(body, dict) else None
    if not isinstance(told, dict):
        return ""
    # Of "all shards failed" the reason counts; of a refused document its own type.
    if told.get("type") == "search_phase_execution_exception" and told.get("root_cause"):
        told = told["root_cause"][0]
    return str(told.get("type") or "")


def failed(kind: str, status: int, what: str, engine: str) -> EngineError:
    """The error of our tree for an answer, or one item of it; `what`: the call, in a few words."""
    ours, reason, step = BY_TYPE.get(kind) or BY_STATUS.get(status) or UNFORESEEN
    return ours(f"Elasticsearch: {what} failed. {reason} ({kind or status})", next_step=step, engine=engine)


def translated(error: Exception, what: str, engine: str) -> EngineError:
    if isinstance(error, ApiError) and not isinstance(error, UnsupportedProductError):
        return failed(kind_of(error), error.meta.status, what, engine)
    ours, reason, step = next((row for kind, row in BY_CLASS if isinstance(error, kind)), UNFORESEEN)
    word = type(error).__name__
    return ours(f"Elasticsearch: {what} failed. {reason} ({word})", next_step=step, engine=engine)


@contextmanager
def translating(what: str, engine: str) -> Iterator[None]:
    try:
        yield
    except (ApiError, elastic_transport.TransportError) as error:
        raise translated(error, what, engine) from error
