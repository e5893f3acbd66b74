"""What goes wrong in a real server makes a real Prometheus fire the shipped alert, and clear it once it is over.

A minute of the rules is a second here; whether an alert fires is asked, never how fast.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import httpx
import pytest

from ragline.chaos.alarms import SHORTER, shortened
from tests.cli.conftest import up
from tests.deploy.alerts import FILES, RULES, watching
from tests.engines.prometheus import Prometheus, until
from tests.engines.server import free_port, running

SETTINGS = """
faults = "{faults}"
log_level = "error"

[[generators]]
url = "http://127.0.0.1:{llm}/v1"
model = "played"
timeout_s = 600
"""


class Server:
    def __init__(self, url: str, faults: Path, llm: int) -> None:
        """`llm`: the port where its generator is to be."""
        self.url = url
        self.llm = llm
        self._faults = faults
        self._numbers = count()

    def fail(self, *parts: str) -> None:
        """From now on these refuse, and no others. Whole or not at all: the server may look in between."""
        written = self._faults.with_suffix(".new")
        written.write_text(json.dumps({part: {"kind": "refuse"} for part in parts}))
        written.replace(self._faults)

    def search(self, times: int = 20) -> bool:
        """What nobody has asked before, so that no cache answers. Errors are the caller's to watch."""
        for _ in range(times):
            httpx.post(f"{self.url}/v1/search", json={"query": f"heron {next(self._numbers)}"}, timeout=60.0)
        return True

    def queue(self, times: int = 3) -> bool:
        for _ in range(times):
            body = {"query": f"What does heron {next(self._numbers)} eat?"}
            httpx.post(f"{self.url}/v1/queries", json=body, timeout=60.0).raise_for_status()
        return True


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    faults, llm = folder / "faults.json", free_port()
    (folder / "ragline.toml").write_text(SETTINGS.format(faults=faults, llm=llm), "utf-8")
    with up(folder, "--data-dir", str(folder / "data"), "--config", str(folder / "ragline.toml")) as about:
        ours = Server(about["url"], faults, llm)
        part = ("file", ("a.txt", b"The heron eats fish."))
        httpx.post(
            f"{ours.url}/v1/namespaces/default/documents?wait=true", files=[part], timeout=60.0
        ).raise_for_status()
        yield ours


@pytest.fixture(scope="module")
def prometheus(served: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with watching(tmp_path_factory.mktemp("prometheus"), served.url, partial(shortened, by=SHORTER)) as ours:
        yield ours


def test_windows_and_ages_are_shortened_and_nothing_else() -> None:
    assert shortened("max by (ragline) (oldest_waiting_document_s) > 3600 or queue_length > 100", by=60) == (
        "max by (ragline) (oldest_waiting_document_s) > 60 or queue_length > 100"
    )
    assert shortened("sum(rate(x_total[5m])) > ratio5m offset 15m\n for: 10m\n increase1h >= 100", by=60) == (
        "sum(rate(x_total[5000ms])) > ratio5m offset 15000ms\n for: 10000ms\n increase1h >= 100"
    )
    for name in FILES:
        text = (RULES / name).read_text("utf-8")
        assert not re.search(r"\[\d+[smhd]\]|\b(for:|offset) \d+[smhd]\b", shortened(text, by=SHORTER))
    assert "edge_purge_lag) > 1\n" in shortened((RULES / "ragline-alerts.yml").read_text("utf-8"), by=SHORTER)


def test_a_leg_that_fails_is_told_of_and_searches_are_answered(served: Server, prometheus: Prometheus) -> None:
    served.search()
    assert prometheus.firing("RaglineLegErrors") == []
    served.fail("keywords")

    def both() -> bool:
        legs = {alert["labels"]["leg"] for alert in prometheus.firing("RaglineLegErrors")}
        engines = {alert["labels"]["engine"] for alert in prometheus.firing("RaglineEngineLeftOut")}
        return served.search() and legs == engines == {"keyword"}

    until(both)
    assert prometheus.firing("RaglineRetrievalErrors") == []
    served.fail()
    until(
        lambda: (
            served.search()
            and not prometheus.firing("RaglineLegErrors")
            and not prometheus.firing("RaglineEngineLeftOut")
        )
    )


def test_searches_that_fail_burn_the_budget(served: Server, prometheus: Prometheus) -> None:
    served.search()
    assert prometheus.firing("RaglineRetrievalErrors") == []
    served.fail("keywords", "vectors")
    until(lambda: served.search() and prometheus.firing("RaglineRetrievalErrors"))
    assert "critical" in {alert["labels"]["severity"] for alert in prometheus.firing("RaglineRetrievalErrors")}
    served.fail()

    def paged() -> bool:
        """The tickets of three days go on for an hour and more, as they should."""
        return "14.4" in {alert["labels"]["burn"] for alert in prometheus.firing("RaglineRetrievalErrors")}

    until(lambda: served.search() and not paged())


def test_a_queue_is_told_of_while_it_grows(served: Server, prometheus: Prometheus, tmp_path: Path) -> None:
    """The generator takes requests and says nothing; once it is gone, the extractive one answers."""
    control = f"http://127.0.0.1:{served.llm}/control"

    def silent() -> bool:
        try:
            return httpx.patch(control, json={"hang_after": 0}).is_success
        except httpx.TransportError:
            return False

    command = [sys.executable, "-m", "ragline.chaos.llm", "--port", str(served.llm)]
    with running(command, name="llm", folder=tmp_path, ready=silent):
        (alert,) = until(lambda: served.queue() and prometheus.firing("RaglineQueueGrowing"))
    assert alert["labels"]["queue"] == "generation"
    until(lambda: not prometheus.firing("RaglineQueueGrowing"))
