"""The dashboards are what their code says; and a real Prometheus that has scraped a real run has data for each of their queries.

No Grafana runs here: types and layout are its SDK's, queries are Prometheus'.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ragline import metrics
from scripts.dashboards import DASHBOARDS, FOLDER, GRID_WIDTH, LOG_NEEDS, Panel, made, panels
from tests.cli.conftest import up
from tests.deploy.alerts import RULES, groups, watching
from tests.engines.prometheus import Prometheus, until
from tests.engines.server import free_port, running

LACKS = {
    LOG_NEEDS: 3,
    "an edge (`edge.url`)": 2,
    "jobs with a webhook": 1,
    "a collector (`traces.url`)": 1,
    "a cache that has failed": 1,
    "an entry of another version, or damaged": 1,
    "an attempt that has made no step within its deadline": 1,
    "an audit that has mended something": 1,
}
"""What the run below has not, and how many panels are empty for it."""

WINDOWS = {"$__rate_interval": "1m", "$__range": "5m"}
"""What Grafana would put there."""

EVERY = [(name, panel) for name in DASHBOARDS for panel in panels(name)]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_what_is_checked_in_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text("utf-8") == made(name), "run `python scripts/dashboards.py`"


def test_there_is_no_other_dashboard() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(DASHBOARDS)


def test_grafana_can_tell_them_and_their_panels_apart() -> None:
    boards = [json.loads(made(name)) for name in DASHBOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards)
    for board in boards:
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        places: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            taken = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
            assert not taken & places, panel["title"]
            assert at["x"] + at["w"] <= GRID_WIDTH
            places |= taken
            refs = [target["refId"] for target in panel.get("targets", [])]
            assert len(set(refs)) == len(refs)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_query_is_left_out_of_the_file(name: str) -> None:
    told = [t["expr"] for panel in json.loads(made(name))["panels"] for t in panel.get("targets", [])]
    assert told == [expr for panel in panels(name) for expr in panel.queries.values()]


def test_every_metric_is_on_a_dashboard() -> None:
    words = {word for _, panel in EVERY for expr in panel.queries.values() for word in re.findall(r"[\w:]+", expr)}
    recorded = {
        rule["record"]: rule["expr"] for group in groups(RULES / "ragline-records.yml") for rule in group["rules"]
    }
    for _ in recorded:  # a rule may stand on a rule
        words |= {word for name, expr in recorded.items() if name in words for word in re.findall(r"[\w:]+", expr)}
    asked = {re.sub(r"_(bucket|sum|count)$", "", word) for word in words}
    there = {
        family.name + ("_total" if family.type == "counter" else "") for family in metrics.REGISTRY.collect()
    }  # fmt: skip
    assert there - asked == set()


def test_the_provisioning_finds_them() -> None:
    (provider,) = yaml.safe_load((FOLDER.parent / "dashboards.yml").read_text("utf-8"))["providers"]
    (source,) = yaml.safe_load((FOLDER.parent / "datasource.yml").read_text("utf-8"))["datasources"]
    assert (provider["type"], Path(provider["options"]["path"]).name) == ("file", FOLDER.name)
    assert (source["type"], source["isDefault"]) == ("prometheus", True)


# ── a real run ───────────────────────────────────────────────────────────────────────────────────────────────────────

SETTINGS = """
faults = "{faults}"
log_level = "error" # nobody reads what is logged, and a pipe that is full would stop the server

[cache]
audit_share = 1.0

[ingest]
upkeep_s = 1
stale_after_s = 1

[query]
recall_share = 1.0

[[generators]]
url = "http://127.0.0.1:{nobody}/v1"
model = "away"

[[generators]]
url = "http://127.0.0.1:{llm}/v1"
model = "played"
prompt_price = 3
completion_price = 15
"""


@dataclass
class Run:
    url: str
    faults: Path
    turn: int = 0

    def call(self, method: str, path: str, *, lenient: bool = False, **words: Any) -> Any:
        answer = httpx.request(method, self.url + path, timeout=60.0, **words)
        return answer.json() if lenient else answer.raise_for_status().json()

    def go_on(self) -> None:
        """A little of everything that a server does."""
        self.turn += 1
        n = self.turn
        text = f"The heron of river {n} eats {n} fish a day.".encode()
        self.upload(f"{n % 20}.txt", text)
        question = {"query": f"How many fish does the heron of river {n} eat?"}
        for _ in range(2):  # the second is a hit
            self.call("POST", "/v1/search", json={"query": f"heron {n}"})
            self.call("POST", "/v1/answers", json=question)
        job = self.call("POST", "/v1/queries", json={"query": f"What does the heron of river {n} eat?"})["job_id"]
        until(lambda: self.call("GET", f"/v1/jobs/{job}")["state"] in ("done", "failed"))
        if n == 1:
            self.call("POST", "/v1/audit", json={})
            for bytes_ in (b"A scan about pears.", b"%PDF-1.7 no more than this"):  # served, and then stale
                self.upload("scan.pdf", bytes_)
        self.call("POST", "/v1/redrive")
        for broken in ("keywords",), ("keywords", "vectors"):
            self.fail(*broken)
            self.call("POST", "/v1/search", json={"query": f"river {n} {broken}"}, lenient=True)
        self.fail()

    def upload(self, name: str, data: bytes) -> None:
        self.call("POST", "/v1/namespaces/default/documents?wait=true", files=[("file", (name, data))])

    def fail(self, *parts: str) -> None:
        """From now on these refuse. Whole or not at all: the server may look in between."""
        written = self.faults.with_suffix(".new")
        written.write_text(json.dumps({part: {"kind": "refuse"} for part in parts}))
        written.replace(self.faults)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("run")
    llm, faults = free_port(), folder / "faults.json"
    given = SETTINGS.format(faults=faults, nobody=free_port(), llm=llm)
    (folder / "ragline.toml").write_text(given, "utf-8")

    def listens() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{llm}/control").status_code < 500
        except httpx.TransportError:
            return False

    with (
        running(
            [sys.executable, "-m", "ragline.chaos.llm", "--port", str(llm)], name="llm", folder=folder, ready=listens
        ),
        up(folder, "--data-dir", str(folder / "data"), "--config", str(folder / "ragline.toml")) as about,
    ):
        yield Run(about["url"], faults)


@pytest.fixture(scope="module")
def prometheus(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with watching(tmp_path_factory.mktemp("prometheus"), run.url) as ours:
        yield ours


def has_data(prometheus: Prometheus, expr: str) -> bool:
    """Raises HTTPError: it is no expression."""
    for word, window in WINDOWS.items():
        expr = expr.replace(word, window)
    return any(math.isfinite(float(one["value"][1])) for one in prometheus.ask(expr))


def test_every_query_has_data_of_a_real_run(run: Run, prometheus: Prometheus) -> None:
    left: dict[tuple[str, str, str], Panel] = {
        (name, panel.title, legend): panel
        for name, panel in EVERY
        if panel.needs not in LACKS
        for legend in panel.queries
    }

    def all_have() -> bool:
        run.go_on()
        for key, panel in list(left.items()):
            if has_data(prometheus, panel.queries[key[2]]):
                del left[key]
        return not left

    try:
        until(all_have)
    except AssertionError:  # `until` knows only that it took too long
        pytest.fail(f"without data: {sorted(left)}")


def test_what_says_that_it_is_empty_is(run: Run, prometheus: Prometheus) -> None:
    """And parses. Whoever adds one has to say what is lacking."""
    empty = [panel for _, panel in EVERY if panel.needs in LACKS]
    assert {needs: sum(panel.needs == needs for panel in empty) for needs in LACKS} == LACKS
    for panel in empty:
        assert not any(has_data(prometheus, expr) for expr in panel.queries.values()), panel.title
        assert panel.needs in panel.described
