"""The page on metrics says every metric of the code and no other; and what is exposed stays bounded and well formed."""

from __future__ import annotations

import math
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ragline import metrics
from ragline.api.app import worker
from ragline.errors import EngineUnavailable
from ragline.system import System
from tests.api.conftest import Api
from tests.api.conftest import api as api
from tests.deploy.alerts import RULES, groups

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


def _in_code() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name as it is exposed → kind and labels."""
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, Histogram | Counter | Gauge):
            (family,) = list(metric.describe())
            name = family.name + ("_total" if family.type == "counter" else "")
            found[name] = family.type, tuple(metric._labelnames)
    return found


def test_the_page_has_every_metric_with_its_labels_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows if kind != "that"}
    assert told == _in_code()


def test_every_metric_is_registered_where_a_scrape_finds_it() -> None:
    assert {family.name for family in metrics.REGISTRY.collect()} == {
        name.removesuffix("_total") for name in _in_code()
    }


def test_the_page_has_every_alert_with_its_severity() -> None:
    told = dict(re.findall(r"^\| \[(\w+)\]\(runbooks/\w+\.md\) \| (\w+) \|", PAGE.read_text("utf-8"), re.MULTILINE))
    first: dict[str, str] = {}
    for group in groups(RULES / "ragline-alerts.yml"):
        for rule in group["rules"]:
            first.setdefault(rule["alert"], rule["labels"]["severity"])
    assert told == first


def test_no_label_can_hold_a_user_and_a_namespace_only_where_places_are_limited() -> None:
    """`spending.Places` limits them, and tests/test_spending.py tries it with ten thousand."""
    assert {name for name, (_, labels) in _in_code().items() if "namespace" in labels} == {
        "generation_tokens_total", "generation_cost_total",
    }  # fmt: skip
    bounded = {"namespace", "counted", "stage", "generator", "leg", "error", "step", "outcome", "why", "done", "kind", "topic",
               "group", "tier", "fault", "engine", "queue", "how", "route", "status"}  # fmt: skip
    assert {label for _, labels in _in_code().values() for label in labels} <= bounded


async def test_many_namespaces_and_unknown_routes_make_no_series(api: Api) -> None:
    async def size() -> int:
        text = (await api.call("GET", "/metrics")).text
        return len([line for line in text.splitlines() if not line.startswith("#")])

    for name in ("first", "second"):  # whatever a first time makes
        await api.call("PUT", f"/v1/namespaces/{name}", status=201)
        await api.search("apples", namespace=name)
        await api.call("GET", f"/nowhere/{name}", status=404)
    await size()  # a scrape is a request too
    before = await size()
    for n in range(30):
        await api.call("PUT", f"/v1/namespaces/n{n}", status=201)
        await api.search("apples", namespace=f"n{n}")
        await api.call("GET", f"/nowhere/{n}", status=404)
    assert await size() == before


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a\\b", 'x"} 1\nforged_total 7', "ü" * 300])
def test_a_hostile_generator_name_forges_nothing(name: str) -> None:
    registry = CollectorRegistry()
    Histogram("generation_latency_ms", "A whole generation.", ["generator"], registry=registry).labels(name).observe(1)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert {family.name for family in families} <= {"generation_latency_ms", "generation_latency_ms_created"}
    assert {sample.labels["generator"] for family in families for sample in family.samples} == {name}


async def test_a_scrape_goes_on_without_the_registry(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> int:
        raise EngineUnavailable("It is away.", next_step="Wait.", engine="registry")

    monkeypatch.setattr(type(api.system.documents), "waiting", lambda self: away())
    await api.call("GET", "/metrics")
    assert math.isnan(metrics.REGISTRY.get_sample_value("documents_waiting") or 0.0)


async def test_every_way_that_a_search_ends_is_counted_once(api: Api) -> None:
    def counted(outcome: str) -> float:
        return metrics.REGISTRY.get_sample_value("searches_total", {"outcome": outcome}) or 0.0

    await api.upload(("a.txt", "Apples are red."))
    before = {outcome: counted(outcome) for outcome in ("answered", "degraded", "failed", "refused", "rejected")}
    await api.search("apples")
    await api.search("apples")  # a hit
    await api.search(" ", status=422)
    await api.search("apples", namespace="nowhere", status=404)
    after = {outcome: counted(outcome) for outcome in before}
    assert {name: after[name] - before[name] for name in before} == {
        "answered": 2, "degraded": 0, "failed": 0, "refused": 0, "rejected": 2,
    }  # fmt: skip


async def test_a_worker_has_metrics_too(system: System) -> None:
    transport = httpx.ASGITransport(worker(system, owner_token="t"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "documents_waiting 0.0" in answer.text
