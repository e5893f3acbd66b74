"""A real Prometheus scrapes a real server: the shipped rules load, every query of the page works, an alert fires and clears."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from tests.cli.conftest import up
from tests.deploy.alerts import RULES, watching
from tests.engines.prometheus import Prometheus, until
from tests.engines.server import free_port

PAGE = RULES.parents[1] / "docs" / "metrics.md"

SETTINGS = """
[ingest]
stale_after_s = 1
upkeep_s = 1

[query]
generator_patience_ms = 0

[[generators]]
url = "http://127.0.0.1:{port}/v1"
model = "away"

[[generators]]
url = "extractive://"
"""
"""What is stale is looked for every second; and nobody listens where the first generator should be."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "ragline.toml").write_text(SETTINGS.format(port=free_port()), "utf-8")
    with up(folder, "--data-dir", str(folder / "data"), "--config", str(folder / "ragline.toml")) as about:
        yield about


@pytest.fixture(scope="module")
def prometheus(served: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The shipped configuration, with its address, and with seconds where it has minutes to wait."""
    with watching(
        tmp_path_factory.mktemp("prometheus"), served["url"], lambda rules: re.sub(r"for: \d+m", "for: 2s", rules)
    ) as ours:
        yield ours


def test_what_is_scraped_is_what_the_page_says(prometheus: Prometheus) -> None:
    assert until(lambda: prometheus.ask("documents_waiting"))[0]["value"][1] == "0"
    for metric in ("searches_in_flight", "served_documents", "stale_passage_ratio", "cache_wrong_total"):
        assert until(partial(prometheus.ask, metric)), metric


def test_prometheus_takes_every_query_of_the_page(prometheus: Prometheus) -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    queries = [code for row in rows for code in re.findall(r"`([^`]+)`", row) if re.match(r"\w+( by)? ?\(", code)]
    assert len(queries) > 20
    for query in queries:
        prometheus.ask(query)  # raises where it is no expression


def test_an_alert_fires_and_clears_for_real(prometheus: Prometheus, served: dict[str, Any]) -> None:
    """The server is stopped as a machine is that swaps; it answers nothing until it goes on."""
    assert prometheus.firing("RaglineDown") == []
    process = served["process"]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        (alert,) = until(lambda: prometheus.firing("RaglineDown"))
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["description"].startswith("127.0.0.1:")
    until(lambda: not prometheus.firing("RaglineDown"))


def test_every_engine_is_told_of_before_it_is_left_out(prometheus: Prometheus) -> None:
    """`engine_left_out` is there at 0 from the start, so that its alert can clear."""
    engines = {one["metric"]["engine"] for one in until(lambda: prometheus.ask("engine_left_out == 0"))}
    assert {"dense", "keyword", "registry"} <= engines
    assert prometheus.firing("RaglineEngineLeftOut") == []


def _call(served: dict[str, Any], path: str, body: object = None, **files: bytes) -> Any:
    """As the folder's owner, which whoever is on this machine is while there are no keys."""
    if files:
        parts = [("file", (name, data)) for name, data in files.items()]
        answer = httpx.post(f"{served['url']}{path}?wait=true", files=parts, timeout=60.0)
    else:
        answer = httpx.post(f"{served['url']}{path}", json=body, timeout=60.0)
    return answer.raise_for_status().json()


DOCUMENTS = "/v1/namespaces/default/documents"


def test_stale_passages_fire_and_clear(prometheus: Prometheus, served: dict[str, Any]) -> None:
    """Two of twenty-five get new bytes that cannot be read; good ones end it."""
    pages = {f"page{n}.txt": f"Page {n} is about apples and number {n}.".encode() for n in range(23)}
    scans = {f"scan{n}.pdf": f"Scan {n} is about pears.".encode() for n in range(2)}
    _call(served, DOCUMENTS, **pages, **scans)
    until(lambda: prometheus.ask("served_documents == 25"))
    assert prometheus.firing("RaglinePassagesStale") == []
    _call(served, DOCUMENTS, **dict.fromkeys(scans, b"%PDF-1.7 no more than this"))
    (alert,) = until(lambda: prometheus.firing("RaglinePassagesStale"))
    assert alert["annotations"]["description"].startswith("8% of the documents")
    told = _call(served, "/v1/redrive")
    assert told["counts"] == {"parsed again": 2}
    assert {one["uri"] for one in told["documents"]} == set(scans)
    _call(served, DOCUMENTS, **{name: data + b" Really." for name, data in scans.items()})
    until(lambda: not prometheus.firing("RaglinePassagesStale"))


def test_a_cold_cache_fires_and_a_warm_one_clears(prometheus: Prometheus, served: dict[str, Any]) -> None:
    """Questions that nobody has asked before, until there were enough of them; then one that everybody asks."""
    assert prometheus.firing("RaglineCacheCold") == []
    new = (f"apples {n}" for n in range(100_000))
    until(lambda: _ask(served, [next(new) for _ in range(20)]) and prometheus.firing("RaglineCacheCold"))
    until(lambda: _ask(served, ["pears"] * 200) and not prometheus.firing("RaglineCacheCold"))


def _ask(served: dict[str, Any], queries: list[str]) -> int:
    """How many were answered."""
    return len([_call(served, "/v1/search", {"query": query}) for query in queries])


def test_a_generator_that_is_away_is_an_engine_left_out(prometheus: Prometheus, served: dict[str, Any]) -> None:
    assert prometheus.firing("RaglineEngineLeftOut") == []
    for n in range(6):
        _call(served, "/v1/answers", {"query": f"What is page {n} about?"})
    (alert,) = until(lambda: prometheus.firing("RaglineEngineLeftOut"))
    assert "away" in alert["labels"]["engine"]
    assert alert["annotations"]["description"].startswith("generator:")
