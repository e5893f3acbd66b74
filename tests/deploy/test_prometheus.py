"""A real Prometheus scrapes a real server: the shipped rules load, every query of the page works, an alert fires and clears."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import yaml

from tests.cli.conftest import up
from tests.deploy.alerts import FILES, RULES
from tests.engines.prometheus import Prometheus, server

WITHIN_S = 120.0
PAGE = RULES.parents[1] / "docs" / "metrics.md"


def _until(true: Callable[[], Any]) -> Any:
    """Ask until it is so; a busy machine takes as long as it takes."""
    deadline = time.monotonic() + WITHIN_S
    while not (found := true()):
        assert time.monotonic() < deadline, true
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("served")
    with up(folder, "--data-dir", str(folder / "data")) as about:
        yield about


@pytest.fixture(scope="module")
def prometheus(served: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """The shipped configuration, with its address, and with seconds where it has minutes to wait."""
    folder = tmp_path_factory.mktemp("prometheus")
    for name in FILES:
        shutil.copy(RULES / name, folder / name)
    alerts = (RULES / "ragline-alerts.yml").read_text("utf-8")
    (folder / "ragline-alerts.yml").write_text(re.sub(r"for: \d+m", "for: 2s", alerts), "utf-8")
    config = yaml.safe_load((RULES / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    del config["alerting"]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [served["url"].removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    with server(folder, folder / "prometheus.yml") as ours:
        _until(lambda: ours.ask('up{job="ragline"} == 1'))
        yield ours


def test_what_is_scraped_is_what_the_page_says(prometheus: Prometheus) -> None:
    assert _until(lambda: prometheus.ask("documents_waiting"))[0]["value"][1] == "0"
    for metric in ("searches_in_flight", "served_documents", "stale_passage_ratio", "cache_wrong_total"):
        assert _until(partial(prometheus.ask, metric)), metric


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
        (alert,) = _until(lambda: prometheus.firing("RaglineDown"))
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["description"].startswith("127.0.0.1:")
    _until(lambda: not prometheus.firing("RaglineDown"))


def test_every_engine_is_told_of_before_it_is_left_out(prometheus: Prometheus) -> None:
    """`engine_left_out` is there at 0 from the start, so that its alert can clear."""
    engines = {one["metric"]["engine"] for one in _until(lambda: prometheus.ask("engine_left_out == 0"))}
    assert {"dense", "keyword", "registry"} <= engines
    assert prometheus.firing("RaglineEngineLeftOut") == []
