"""Every alert fires above its threshold, clears below it, and is quiet without traffic; a wrong threshold fails these tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ragline import metrics
from tests.deploy.alerts import FILES, RULES, Scene, groups, levels, play, rates
from tests.engines.prometheus import program

ROOT = RULES.parents[1]
HALF_HOUR = 30


def shares(over: float, under: float, least: float, per_minutes: int, series: Callable[..., dict[str, str]]) -> Any:
    """Timelines of a share: over its threshold and then under it, with a little more traffic than is wanted; and over it with a
    little less. `series` makes them of (all a minute, share, minutes) …"""
    enough, few = 1.2 * least / per_minutes, 0.8 * least / per_minutes
    return (
        series((enough, over, HALF_HOUR), (enough, under, HALF_HOUR)),
        series((few, over, HALF_HOUR)),
    )


def scenes_of_share(
    alert: str, over: float, under: float, least: float, per_minutes: int, series: Callable[..., dict[str, str]],
    **labels: str,
) -> Iterator[Scene]:  # fmt: skip
    busy, calm = shares(over, under, least, per_minutes, series)
    yield Scene(alert, "fires and clears", busy, fires=(28, 30), quiet=(2, 58), labels=labels)
    yield Scene(alert, "too little traffic", calm, quiet=(28,), labels=labels)


def scenes_of_level(
    alert: str, metric: str, over: float, under: float, more: dict[str, str] | None = None
) -> Iterator[Scene]:
    values = levels((under, HALF_HOUR), (over, HALF_HOUR), (under, HALF_HOUR))
    yield Scene(alert, "fires and clears", {metric: values} | (more or {}), fires=(50, 59), quiet=(29, 30, 88))


def _latency(metric: str, labels: str, limit: str, *others: str) -> Callable[..., dict[str, str]]:
    """Slow ones took longer than `limit` ms and less than `others`."""

    def series(*parts: tuple[float, float, int]) -> dict[str, str]:
        every = rates(*((all_, minutes) for all_, _, minutes in parts))
        fast = rates(*((all_ * (1 - share), minutes) for all_, share, minutes in parts))
        made = {f'{metric}_bucket{{{labels}, le="{limit}"}}': fast, f"{metric}_count{{{labels}}}": every}
        return made | {f'{metric}_bucket{{{labels}, le="{other}"}}': every for other in others}

    return series


def _outcomes(outcome: str, other: str = "answered", metric: str = "searches_total") -> Callable[..., dict[str, str]]:
    def series(*parts: tuple[float, float, int]) -> dict[str, str]:
        return {
            f'{metric}{{outcome="{outcome}"}}': rates(*((all_ * share, minutes) for all_, share, minutes in parts)),
            f'{metric}{{outcome="{other}"}}': rates(*((all_ * (1 - share), minutes) for all_, share, minutes in parts)),
        }

    return series


def _leg_errors(*parts: tuple[float, float, int]) -> dict[str, str]:
    return {
        'retrieval_latency_ms_count{stage="dense"}': rates(*((all_, minutes) for all_, _, minutes in parts)),
        'retrieval_errors_total{leg="dense", error="EngineTimeout"}': rates(*((a * s, m) for a, s, m in parts)),
    }


def _burning(burn: float, long: int, short: int) -> Iterator[Scene]:
    """Each pair of windows by itself: after three quarters of the long one the budget is not burnt, after all of it it is; once
    the errors have fallen below the rate the short one ends the alert, before the long one would. Units: windows in minutes."""
    over, under, every = 1.2 * burn / 1000, 0.75 * burn / 1000, max(1, short // 6)
    labels = {"burn": f"{burn:g}"}
    begins, ends = 2 * short, 2 * short + long

    def series(in_window: float) -> dict[str, str]:
        step = in_window * every / long
        parts = ((step, 0.0, begins // every), (step, over, long // every), (step, under, 2 * short // every))
        return _outcomes("failed")(*parts)

    quiet = (begins, begins + long * 3 // 4, ends + 2 * short)
    for what, traffic, fires, still in (("fires and clears", 120, (ends,), quiet), ("little traffic", 80, (), (ends,))):
        yield Scene("RaglineRetrievalErrors", what, series(traffic), fires, still, labels, every)


def _recall(*parts: tuple[float, float, int]) -> dict[str, str]:
    return {
        "ann_recall_count": rates(*((every, minutes) for every, _, minutes in parts)),
        "ann_recall_sum": rates(*((every * share, minutes) for every, share, minutes in parts)),
    }


SCENES = [
    Scene(
        "RaglineRecallLow", "fires and clears", _recall((0.4, 0.93, 90), (0.4, 0.97, 90)), fires=(80,), quiet=(10, 179)
    ),
    Scene("RaglineRecallLow", "a recall that would do", _recall((0.4, 0.97, 90)), quiet=(89,)),
    Scene("RaglineRecallLow", "too few were measured", _recall((0.27, 0.5, 90)), quiet=(89,)),
    Scene("RaglineDown", "fires and clears", {'up{job="ragline", instance="a:8080"}': levels((1, 10), (0, 10), (1, 10))},
          fires=(13, 19), quiet=(9, 11, 21)),
    *scenes_of_share("RaglineRetrievalSlow", 0.06, 0.04, 50, 5,
                     _latency("retrieval_latency_ms", 'stage="total"', "200.0", "300.0", "1000.0")),
    Scene("RaglineRetrievalSlow", "hits of the cache hide nothing and slow ones of them are none",
          _latency("retrieval_latency_ms", 'stage="cached"', "200.0")((100, 0.5, 30)), quiet=(28,)),
    *(scene for pair in ((14.4, 60, 5), (6.0, 360, 30), (3.0, 1440, 120), (1.0, 4320, 360)) for scene in _burning(*pair)),
    *scenes_of_share("RaglineLegErrors", 0.06, 0.04, 50, 5, _leg_errors, leg="dense"),
    *scenes_of_share("RaglineSearchesRefused", 0.012, 0.008, 50, 5, _outcomes("refused")),
    *scenes_of_share("RaglineGenerationSlow", 0.024, 0.016, 50, 5,
                     _latency("generation_latency_ms", 'generator="extractive"', "1000.0", "2000.0"), generator="extractive"),
    *scenes_of_share("RaglineCacheCold", 0.4, 0.25, 100, 10,
                     lambda *parts: _outcomes("miss", "hit", 'cache_requests_total')(*parts)),
    Scene("RaglineCacheCold", "a cache that never hits", {'cache_requests_total{outcome="miss"}': rates((20, 30))},
          fires=(25,), quiet=(5,)),
    Scene("RaglineGenerationSlow", "a generator with a limit of its own",
          _latency("generation_latency_ms", 'generator="large"', "10000.0", "30000.0")((12, 0.024, 30), (12, 0.016, 30))
          | {'generation_latency_ms_bucket{generator="large", le="1000.0"}': rates((0, 60)),
             'ragline:generation_limit{generator="large", le="10000.0"}': levels((1, 61))},
          fires=(28,), quiet=(58,), labels={"generator": "large"}),
    Scene("RaglineCacheWrong", "one is too many", {"cache_wrong_total": rates((0, 20), (1, 1), (0, 99))}, fires=(22, 70),
          quiet=(19, 100)),
    *scenes_of_level("RaglinePassagesStale", "stale_passage_ratio", 0.06, 0.04, {"served_documents": levels((24, 90))}),
    Scene("RaglinePassagesStale", "too few documents",
          {"stale_passage_ratio": levels((0.5, 60)), "served_documents": levels((16, 60))}, quiet=(59,)),
    *scenes_of_level("RaglineDocumentsOverdue", "oldest_waiting_document_s", 4000, 3000),
    *scenes_of_level("RaglineEdgePurgeLag", "edge_purge_lag", 70, 50),
    *scenes_of_level("RaglineEngineLeftOut", 'engine_left_out{engine="dense"}', 1, 0),
    *(Scene(alert, what, {metric: values}, fires=fires, quiet=quiet)
      for alert, metric, least in (("RaglineConsumerLag", 'consumer_lag{topic="doc_chunks", group="embed"}', 1000),
                                   ("RaglineQueueGrowing", 'queue_length{queue="retrieval"}', 100))
      for what, values, fires, quiet in (
          ("fires and clears", f"{least * 0.8:g}+0x20 {least * 1.1:g}+1x40 {least * 1.2:g}-1x40", (60,), (19, 90)),
          ("it is long but is worked off", f"{least * 3:g}-1x60", (), (59,)),
          ("it grows and is short", f"{least * 0.7:g}+0.1x60", (), (59,)))),
    Scene("RaglineDeadLetters", "the first one counts", {'dead_letters_total{topic="doc_chunks"}': "_x10 1+0x50"},
          fires=(12,), quiet=(9, 40)),
    Scene("RaglineDeadLetters", "one more", {'dead_letters_total{topic="doc_chunks"}': "5+0x30 6+0x40"}, fires=(33,),
          quiet=(29, 60)),
    Scene(
        "RaglineWebhooksDead", "the first one counts",
        {'webhook_deliveries_total{outcome="dead"}': "_x10 1+0x50", 'webhook_deliveries_total{outcome="put_off"}': "0+9x60"},
        fires=(12,), quiet=(9, 40),
    ),
]  # fmt: skip

NAMES = sorted({scene.alert for scene in SCENES})


def alerts() -> list[dict[str, Any]]:
    (group,) = groups(RULES / "ragline-alerts.yml")
    return list(group["rules"])


@pytest.mark.parametrize("name", NAMES)
def test_it_fires_and_clears_at_its_threshold(name: str, tmp_path: Path) -> None:
    assert play(tmp_path, [scene for scene in SCENES if scene.alert == name]) == ""


def test_every_alert_has_scenes_a_severity_words_and_a_page() -> None:
    assert sorted({rule["alert"] for rule in alerts()}) == NAMES
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert (ROOT / rule["annotations"]["runbook"]).is_file()
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"


def test_promtool_finds_no_fault_with_the_files() -> None:
    rules, config = [str(RULES / name) for name in FILES], str(RULES / "prometheus.yml")
    for command in (["check", "rules", *rules], ["check", "config", config]):
        done = subprocess.run([program("promtool"), *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _exposed() -> set[str]:
    """Every name that a scrape can hold."""
    found = set()
    for family in metrics.REGISTRY.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        found |= {family.name + end for end in ends}
    return found


def test_every_metric_of_the_rules_is_one_of_ours() -> None:
    rules = [rule for name in FILES for group in groups(RULES / name)
             for rule in group["rules"]]  # fmt: skip
    recorded = {rule["record"] for rule in rules if "record" in rule} | {"ragline:generation_limit", "up"}
    words = {
        word
        for rule in rules
        for word in re.findall(r"[a-z][a-z0-9_:]*[a-z0-9]", re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', "", rule["expr"]))
    }
    grammar = set("sum by rate increase and or on unless offset max label_replace ragline leg engine topic group queue "
                  "generator stage le".split())  # fmt: skip
    unknown = {
        word for word in words - grammar - recorded - _exposed() if not re.fullmatch(r"\d+[mhd]|[mhdx]|\d*m", word)
    }
    assert unknown == set()


def _mutations() -> Iterator[Any]:
    """Each threshold of each alert, half as high again and by a third lower; and each bound of a histogram."""
    text = (RULES / "ragline-alerts.yml").read_text("utf-8")
    for block in re.finditer(r"- alert: (\w+)\n.*?runbook:[^\n]*", text, re.DOTALL):
        expression = block.group(0).partition("labels:")[0]
        for found in re.finditer(r"([<>]=?) ([\d.]+)( \* 0\.001)?", expression):
            at = block.start() + found.start()
            number = float(found.group(2))
            for factor in (1.5, 1 / 1.5) if number else ():
                new = f"{found.group(1)} {number * factor:g}{found.group(3) or ''}"
                mutated = text[:at] + new + text[at + len(found.group(0)) :]
                yield pytest.param(
                    "ragline-alerts.yml", mutated, block.group(1),
                    id=f"{block.group(1)}-{text.count(chr(10), 0, at) + 1}-{found.group(2)}-{factor:.2g}",
                )  # fmt: skip
    records = (RULES / "ragline-records.yml").read_text("utf-8")
    for old, new, alert in (
        (r"200(\\.0)?", r"300(\\.0)?", "RaglineRetrievalSlow"), (r"1000(\\.0)?", r"2000(\\.0)?", "RaglineGenerationSlow"),
    ):  # fmt: skip
        assert records.count(old) == 1
        yield pytest.param("ragline-records.yml", records.replace(old, new), alert, id=f"{alert}-le-{new[:4]}")


@pytest.mark.parametrize(("file", "text", "alert"), list(_mutations()))
def test_a_wrong_threshold_does_not_get_by(file: str, text: str, alert: str, tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(RULES / name, tmp_path / name)
    (tmp_path / file).write_text(text, "utf-8")
    assert "FAILED" in play(tmp_path, [scene for scene in SCENES if scene.alert == alert], tmp_path)
