"""What the URL of an Elasticsearch says, what its errors become, and which adapter the settings pick."""

from __future__ import annotations

from pathlib import Path

import elastic_transport
import elasticsearch
import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig

from ragline import build
from ragline.connections.elasticsearch_errors import BY_STATUS, BY_TYPE, translated, translating
from ragline.connections.elasticsearch_url import LANGUAGES, options_of
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    MissingDependency,
)
from ragline.keywords.elasticsearch import ElasticsearchKeywordIndex
from ragline.settings import Settings
from ragline.vectors.elasticsearch import ElasticsearchVectorStore

ENGINE = "vectors:elasticsearch"


def answer(status: int, kind: str = "", reason: str = "a word of a document") -> elasticsearch.ApiError:
    meta = ApiResponseMeta(status, "1.1", HttpHeaders(), 0.1, NodeConfig("http", "one", 9200))
    told = {"type": kind, "reason": reason}
    body = {"error": {**told, "root_cause": [told]}, "status": status} if kind else reason
    return elasticsearch.exceptions.HTTP_EXCEPTIONS.get(status, elasticsearch.ApiError)(kind, meta=meta, body=body)


def _below(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(lower for one in kind.__subclasses__() for lower in _below(one))]


@pytest.mark.parametrize("kind", _below(elastic_transport.TransportError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_client_is_foreseen(kind: type[elastic_transport.TransportError]) -> None:
    ours = translated(kind("a word of a document"), "searching", ENGINE)
    assert "does not know" not in ours.message
    assert "a word" not in str(ours)
    assert ours.next_step


@pytest.mark.parametrize(
    "status", sorted({*elasticsearch.exceptions.HTTP_EXCEPTIONS, 405, 408, 413, 429, 502, 503, 504})
)
def test_every_status_is_foreseen_with_and_without_words(status: int) -> None:
    for error in (answer(status), answer(status, "some_new_exception")):
        ours = translated(error, "searching", ENGINE)
        assert type(ours) is BY_STATUS[status][0]
        assert "a word" not in str(ours), "no text of a document"


@pytest.mark.parametrize("kind", sorted(BY_TYPE))
def test_the_type_counts_more_than_the_status(kind: str) -> None:
    ours = translated(answer(500, kind), "searching", ENGINE)
    assert type(ours) is BY_TYPE[kind][0]
    assert kind in ours.message


@pytest.mark.parametrize(
    ("error", "ours", "word"),
    [
        (answer(401, "security_exception"), EngineDenied, "user and password"),
        (answer(401), EngineDenied, "Correct them in the URL"),
        (answer(403, "cluster_block_exception"), EngineUnavailable, "watermark"),
        (answer(429, "cluster_block_exception"), EngineUnavailable, "watermark"),
        (answer(429, "es_rejected_execution_exception"), EngineUnavailable, "queues"),
        (answer(413), EngineRejected, "larger"),
        (answer(404, "index_not_found_exception"), EngineRejected, "reindex"),
        (answer(400, "document_parsing_exception"), EngineRejected, "mapping"),
        (answer(400, "media_type_header_exception"), EngineRejected, "older"),
        (answer(500, "null_pointer_exception"), EngineError, "cluster's log"),
        (elastic_transport.ConnectionTimeout("x"), EngineTimeout, "in time"),
        (elastic_transport.TlsError("x"), EngineRejected, "certificate"),
        (elastic_transport.ConnectionError("x"), EngineUnavailable, "reached"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_table(error: Exception, ours: type[EngineError], word: str) -> None:
    with pytest.raises(EngineError) as raised, translating("searching", ENGINE):
        raise error
    assert type(raised.value) is ours
    assert word in str(raised.value)


def test_a_search_that_failed_on_all_shards_says_why() -> None:
    told = {"type": "search_phase_execution_exception", "root_cause": [{"type": "too_many_nested_clauses"}]}
    error = answer(400, "x")
    error.body["error"] = told
    assert "too many words" in translated(error, "searching", ENGINE).message


def test_what_a_url_says(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    options = options_of(
        f"elasticsearchs://user:p%40ss@one,two:9201/house?shards=3&replicas=2&index=bbq_hnsw&timeout_s=5&ca={tmp_path}/ca.pem",
        "vectors",
    )
    server = options.server
    assert server.hosts == ("one:9200", "two:9201")
    assert (server.user, server.password, server.tls, server.verify) == ("user", "p@ss", True, True)
    assert (server.ca, server.timeout_s) == (f"{tmp_path}/ca.pem", 5.0)
    assert (options.prefix, options.shards, options.replicas, options.index) == ("house", 3, 2, "bbq_hnsw")
    assert "p@ss" not in repr(options)
    bare = options_of("elasticsearch://one", "keywords")
    assert (bare.prefix, bare.index, bare.language, bare.server.tls) == ("ragline", "int8_hnsw", "any", False)
    assert options_of("elasticsearch://:KEY@one", "keywords").server.password == "KEY"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("elasticsearch://", "HOST:PORT"),
        ("elasticsearch://one:port", "HOST:PORT"),
        ("elasticsearch://one:0", "HOST:PORT"),
        ("elasticsearch://one:99999", "HOST:PORT"),
        ("elasticsearch://user@one", "has no password"),
        ("elasticsearch://one/House", "prefix"),
        ("elasticsearch://one/_house", "prefix"),
        ("elasticsearch://one?shard=3", "no option 'shard'"),
        ("elasticsearch://one?shards=3&shards=4", "twice"),
        ("elasticsearch://one?password=secret", "no option 'password'"),
        ("elasticsearch://one?shards=0", "shards='0'"),
        ("elasticsearch://one?replicas=-1", "replicas='-1'"),
        ("elasticsearch://one?candidates=10001", "candidates='10001'"),
        ("elasticsearch://one?timeout_s=0", "timeout_s='0'"),
        ("elasticsearch://one?index=flat", "index='flat'"),
        ("elasticsearch://one?verify=false", "only for elasticsearchs"),
        ("elasticsearchs://one?verify=perhaps", "verify='perhaps'"),
        ("elasticsearchs://one?ca=/not/there.pem", "/not/there.pem is not there"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        options_of(url, "vectors")
    assert words in refused.value.message
    assert refused.value.message.startswith("vectors: ")
    assert "secret" not in str(refused.value)


def test_an_unknown_language_is_told_which_there_are() -> None:
    with pytest.raises(ConfigurationError) as refused:
        options_of("elasticsearch://one?language=klingon", "keywords")
    assert "language='klingon'" in refused.value.message
    assert all(language in refused.value.next_step for language in LANGUAGES)


async def test_settings_pick_the_adapters_and_one_cluster_has_one_client() -> None:
    url = "elasticsearch://u:secret@one:9200"
    settings = Settings(vectors=url, keywords=f"{url}/other?language=german")
    vectors = build.open_vectors(settings)
    assert isinstance(vectors, ElasticsearchVectorStore)
    keywords = build.open_keywords(settings, beside=vectors)
    assert isinstance(keywords, ElasticsearchKeywordIndex)
    assert keywords.server is vectors.server
    apart = build.open_keywords(Settings(keywords="elasticsearch://u:other@one:9200"), beside=vectors)
    assert isinstance(apart, ElasticsearchKeywordIndex)
    assert apart.server is not vectors.server
    assert build.shared_hosts(settings) == "one:9200"
    assert build.shared_hosts(Settings(vectors=url)) == ""
    assert build.shared_hosts(Settings()) == ""
    for one in (vectors, keywords, apart):
        await one.aclose()
        await one.aclose()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragline.engines.find_spec", lambda name: None)
    for name, opens in (("vectors", build.open_vectors), ("keywords", build.open_keywords)):
        with pytest.raises(MissingDependency) as missing:
            opens(Settings(**{name: "elasticsearch://one"}))  # type: ignore[arg-type]
        assert "ragline[elasticsearch]" in missing.value.next_step
