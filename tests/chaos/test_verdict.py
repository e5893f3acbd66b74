"""The verdict over what was seen, and what a report says of it: by hand, without a clock."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragline.chaos.asking import Asked
from ragline.chaos.experiment import Expect, Experiment, Fault, Writes
from ragline.chaos.met import unmet
from ragline.chaos.report import as_html, as_json, markdown
from ragline.chaos.samples import Lost, Sample, Samples
from ragline.chaos.verdict import Verdict, broken_off, judge, seen
from ragline.chaos.writing import Sent, Written
from ragline.cli.prove import command_line
from tests.deploy.alerts import RULES

HOLE = Experiment(
    "hole", "A black hole", "dense leg", (Fault("vectors", "hang", 10.0),),
    Expect(degraded="dense", mean_ratio=1.05, p95_ratio=1.05),
)  # fmt: skip


def _samples(*, during: Sequence[str] = ("dense",), took_ms: float = 10.0, status: int = 200) -> list[Sample]:
    """Ten a second, for 10 s before, 10 s of the fault, and 20 s after."""
    before = [Sample(n / 10, 10.0, 200) for n in range(100)]
    fault = [Sample(10 + n / 10, took_ms, status, tuple(during)) for n in range(100)]
    after = [Sample(20 + n / 10, 10.0, 200) for n in range(200)]
    return before + fault + after


def _faults(samples: Sequence[Sample], expect: Expect = HOLE.expect) -> tuple[str, ...]:
    return _judged(samples, expect).faults


def _judged(samples: Sequence[Sample], expect: Expect = HOLE.expect) -> Verdict:
    seen = Samples(samples, for_s=40.0)
    return judge(replace(HOLE, expect=expect), seen, fault_s=10.0, healed_s=20.0, end_s=40.0)


def test_what_was_expected_is_green() -> None:
    assert _faults(_samples()) == ()


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (_samples(during=()), "'dense' in 0 of 85 responses"),
        (_samples(during=("keyword",)), "'dense' in 0 of 85 responses"),
        (_samples(status=503), "100 errors during the fault, expected at most 0: 100 × 503"),
        ([replace(one, lost=Lost.TIMEOUT) if not one.status else one for one in _samples(status=0)], "100 × timeout"),
        (_samples(status=429), "100 errors"),
        (_samples(took_ms=10.6), "mean 10.6 ms during the fault is 1.06 × the 10.0 ms before, over 1.05"),
        (
            [replace(one, took_ms=50.0 if n % 10 == 0 else 10.0) for n, one in enumerate(_samples())][100:],
            "before the fault say nothing",
        ),
        ([*_samples(), Sample(35.0, 10.0, 200, ("dense",))], "after healing: 0 errors, dense 1"),
        ([*_samples(), Sample(35.0, 10.0, 503)], "after healing: 1 errors"),
        ([*_samples(), *3 * [Sample(5.0, 10.0, 200, ("dense",))]], "before the fault: 0 errors , dense 3"),
        ([one for one in _samples() if not 10 <= one.at_s < 20], "0 requests during the fault say nothing"),
    ],
)  # fmt: skip
def test_each_thing_that_is_not_as_expected_is_named(samples: Sequence[Sample], words: str) -> None:
    assert any(words in one for one in _faults(samples)), _faults(samples)


def test_before_the_fault_what_is_shed_under_load_may_be_left_out_where_it_is_allowed() -> None:
    busy = [replace(one, degraded=("rerank",)) if one.at_s < 5 else one for one in _samples()]
    assert _faults(busy, replace(HOLE.expect, allowed=("rerank",))) == ()
    assert _faults(busy) == ("before the fault: 0 errors , rerank 50: it is not well by itself",)
    dense = [replace(one, degraded=("keyword",)) if one.at_s < 5 else one for one in _samples()]
    assert "keyword 50" in _faults(dense, replace(HOLE.expect, allowed=("keyword",)))[0]


def test_while_it_settles_a_response_may_be_of_either_kind() -> None:
    early = [replace(one, degraded=()) if 10 <= one.at_s < 11 else one for one in _samples()]
    late = [replace(one, degraded=("dense",)) if 20 <= one.at_s < 29 else one for one in early]
    assert _faults(late) == ()


def test_after_healing_what_the_fault_left_out_is_back_and_of_others_a_stray_one_may_be() -> None:
    assert _faults([*_samples(), *2 * [Sample(35.0, 10.0, 200, ("rerank",))]]) == ()
    assert _faults([*_samples(), *3 * [Sample(35.0, 10.0, 200, ("rerank",))]]) == (
        "10 s after healing: 0 errors, rerank 3",
    )


def test_after_healing_what_is_shed_under_load_may_go_on_where_it_was_allowed_and_nothing_else() -> None:
    def after(*steps: str) -> list[Sample]:
        return [*_samples(during=()), *(Sample(35.0, 10.0, 200, (step,)) for step in steps)]

    allowed = Expect(allowed=("rerank", "guard"))
    assert _faults(after(*9 * ["rerank"]), allowed) == ()
    assert _faults(after("guard"), allowed) == ("10 s after healing: 0 errors, guard 1",)


def _met(
    fault: Fault, *, asked: Asked | None = None, took_ms: float = 10.0, grown: Mapping[str, float] = {}, killed: int = 0,
    refused: Mapping[str, int] = {},
) -> list[str]:  # fmt: skip
    experiment = replace(HOLE, faults=(fault,), expect=Expect(), jobs=1.0 if asked else 0.0)
    samples = Samples(_samples(during=(), took_ms=took_ms), for_s=40.0)
    verdict = judge(experiment, samples, fault_s=10.0, healed_s=20.0, end_s=40.0, asked=asked)
    return unmet(verdict, grown=grown, killed=killed, refused=refused)


@pytest.mark.parametrize(
    ("fault", "met", "words"),
    [
        (Fault("workers", "kill", 10, 1), {"killed": 1}, "there was no process to kill"),
        (Fault("process", "pause", 10), {"took_ms": 6000.0}, "no search waited while the process stood still"),
        (Fault("edge", "refuse", 10), {"refused": {"edge": 1}}, "nothing was sent to the edge that refused it"),
        (Fault("guard", "stale", 10), {"grown": {"cache_wrong_total": 1}}, "the auditor found nothing"),
        (Fault("vectors", "miss", 10), {"grown": {"ann_recall_count": 2, "ann_recall_sum": 1}}, "no recall below"),
        (Fault("llm", "slow", 10, 2), {"took_ms": 1500.0}, "searches took 0.00 s longer, of 2 s"),
        (Fault("vectors", "hang", 10), {}, None),
    ],
    ids=lambda one: one.kind if isinstance(one, Fault) else None,
)
def test_a_fault_that_nobody_noticed_proves_nothing(fault: Fault, met: dict[str, Any], words: str | None) -> None:
    assert _met(fault, **met) == []
    assert (words or "") in " ".join(found := _met(fault))
    assert bool(found) == bool(words)


def test_jobs_have_waited_for_an_llm_and_deliveries_have_died_of_a_receiver() -> None:
    slow, refusing = Fault("llm", "slow", 10, 2), Fault("webhooks", "refuse", 10)
    assert _met(slow, asked=Asked(9, 5, (), (), 0, 0)) == []
    assert _met(slow, asked=Asked(9, 4, (), (), 0, 0)) == ["4 jobs waited when the fault ended: it held nothing up"]
    assert _met(refusing, asked=Asked(9, 0, (), (), 0, 1), refused={"webhooks": 2}) == []
    assert _met(refusing, asked=Asked(9, 0, (), (), 0, 0), refused={"webhooks": 2}) == ["no delivery was given up"]
    assert _met(refusing, asked=Asked(9, 0, (), (), 0, 1)) == ["nothing was sent to the webhooks that refused it"]


def test_one_that_was_broken_off_is_red_and_in_every_report() -> None:
    verdict = broken_off(HOLE, "no answer")
    about = {"command": "", "version": "", "machine": ""}
    assert verdict.faults == ("it could not be seen to its end: no answer",)
    for written in (markdown, as_json, as_html):
        assert "no answer" in written([verdict], **about)


def test_where_nothing_need_be_left_out_nothing_may_be() -> None:
    assert _faults(_samples(during=()), Expect()) == ()
    assert _faults(_samples(), Expect()) == ("degraded without need: dense 85",)
    assert _faults(_samples(), Expect(allowed=("rerank", "dense"))) == ()
    assert _faults(_samples(during=()), Expect(allowed=("dense",))) == ()


def test_where_nothing_can_answer_every_response_says_so() -> None:
    away = _samples(during=(), status=503)
    assert _faults(away, Expect(unavailable=True)) == ()
    assert _faults(_samples(during=()), Expect(unavailable=True)) == ("0 of 85 responses were a 503",)
    broken = [replace(one, status=500) if one.at_s == 15 else one for one in away]
    assert _faults(broken, Expect(unavailable=True)) == ("1 failed otherwise: 1 × 500, 99 × 503",)
    late = _samples(during=(), status=503, took_ms=300.0)
    assert _faults(late, Expect(unavailable=True, p95_ms=200)) == ("p95 of the 503 is 300 ms, over 200",)


def test_refusals_are_no_errors_where_they_are_expected() -> None:
    shed = [
        replace(one, status=429, degraded=()) if n % 3 and 10 <= one.at_s < 20 else one
        for n, one in enumerate(_samples())
    ]
    assert _faults(shed, Expect(degraded="dense", refused=True)) == ()
    assert _faults(shed, Expect(degraded="dense", refused=True, p95_ms=9.0)) == ("p95 10 ms, over 9",)
    assert _faults(shed, Expect(degraded="dense", refused=True, p95_ms=11.0)) == ()


def _uploads(*, during: Sent | None = None) -> tuple[Sent, ...]:
    """One a second, for 40 s; the fault is from 10 to 20."""
    fault = during or Sent(0.0, 202, "id")
    return tuple(replace(fault if 10 <= n < 20 else Sent(0.0, 202, "id"), at_s=float(n)) for n in range(40))


REFUSED = Sent(0.0, 503, said="The disk is full. Free space.")


@pytest.mark.parametrize(
    ("writes", "written", "words"),
    [
        ("accepted", Written(_uploads(), 3, ()), None),
        ("accepted", Written(_uploads(during=REFUSED), 0, ()), "10 of 10 uploads were refused during the fault"),
        ("accepted", Written(_uploads(), 3, ("a.txt: received",)), "1 accepted documents are not live: a.txt: received"),
        ("accepted", Written(_uploads()[:10], 0, ()), "0 uploads during the fault"),
        ("queued", Written(_uploads(), 9, ()), None),
        ("queued", Written(_uploads(), 4, ()), "it held nothing up"),
        ("refused", Written(_uploads(during=REFUSED), 0, ()), None),
        ("refused", Written(_uploads(), 0, ()), "none of 10 uploads was refused"),
        ("refused", Written(_uploads(during=Sent(0.0, 500)), 0, ()), "without a word"),
        ("refused", Written((*_uploads(during=REFUSED), replace(REFUSED, at_s=35.0)), 0, ()), "or after healing"),
        ("either", Written(_uploads(during=REFUSED), 0, ()), None),
        ("either", Written((*_uploads()[:10], *_uploads()[20:]), 0, ()), None),
        ("either", Written(_uploads(during=Sent(0.0, 0)), 0, ()), "without a word"),
        ("either", Written(_uploads(), 0, ("a.txt: received",)), "1 accepted documents are not live"),
        ("failed", Written(_uploads(), 3, (), 3), None),
        ("failed", Written(_uploads(), 3, ()), "no document failed"),
        ("failed", Written(_uploads(), 3, ("a.txt: failed gave_up",), 3), "1 accepted documents are not live"),
    ],
)  # fmt: skip
def test_what_becomes_of_uploads_is_judged(writes: Writes, written: Written, words: str | None) -> None:
    samples = Samples(_samples(), for_s=40.0)
    experiment = replace(HOLE, expect=replace(HOLE.expect, writes=writes))
    verdict = judge(experiment, samples, fault_s=10.0, healed_s=20.0, end_s=40.0, written=written)
    assert [words in one for one in verdict.faults] == [True] if words else verdict.faults == ()
    words = "accepted or refused" if writes == "either" else writes
    assert f"uploads {words}" in markdown([verdict], command="", version="", machine="")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(5, 3, (), (), 0, 2), None),
        (Asked(0, 0, (), (), 0, 2), "no job was accepted"),
        (Asked(5, 3, ("answered 429",), (), 0, 2), "1 jobs were not accepted: answered 429"),
        (Asked(5, 3, (), ("j: failed",), 0, 2), "1 of 5 jobs are not done: j: failed"),
        (Asked(5, 3, (), (), 1, 2), "of 1 jobs that are done the receiver was never told"),
    ],
)
def test_what_becomes_of_jobs_is_judged(asked: Asked, words: str | None) -> None:
    samples = Samples(_samples(during=()), for_s=40.0)
    experiment = replace(HOLE, expect=Expect(), jobs=2.0)
    verdict = judge(experiment, samples, fault_s=10.0, healed_s=20.0, end_s=40.0, asked=asked)
    assert verdict.faults == ((words,) if words else ())
    told = markdown([verdict], command="", version="", machine="")
    assert "every job done and delivered" in told
    assert (
        f"{asked.accepted} jobs, {asked.waiting} waiting at its end, {len(asked.lost)} lost, 2 webhooks sent again"
        in told
    )


def test_what_was_seen_in_a_part() -> None:
    samples = [Sample(n, float(n + 1), 200) for n in range(20)] + [Sample(3, 500.0, 503), Sample(4, 1.0, 429)]
    part = seen(Samples(samples, for_s=20.0), from_s=0.0, to_s=20.0)
    assert (part.requests, part.errors, part.refused) == (22, 1, 1)
    assert (part.mean_ms, part.p95_ms, part.rate) == (10.5, 19.0, 1.0)


def test_a_report_says_by_which_command_it_was_made() -> None:
    words = {"every": True, "only": (), "files": (), "without": False, "rate": 50.0, "stretch": 1.0}
    assert command_line(local=True, alerts=RULES.relative_to(RULES.parents[1]), **words) == (  # type: ignore[arg-type]
        "ragline prove --local --all --alerts deploy/prometheus --rate 50"
    )
    words |= {"every": False, "only": ("a", "b"), "files": (Path("c.toml"),), "without": True, "stretch": 0.5}
    assert command_line(local=False, alerts=None, **words) == (  # type: ignore[arg-type]
        "ragline prove --without --only a --only b --file c.toml --rate 50 --stretch 0.5"
    )


def test_the_report_says_rung_by_rung_what_was_expected_seen_and_found() -> None:
    where = {"vectors": "on the connection"}
    verdicts = [replace(_judged(_samples()), where=where), _judged(_samples(status=503))]
    about = {"command": "ragline prove", "version": "1", "machine": "<here>"}
    told = markdown(verdicts, **about)
    assert "Proof of 1 of 2 rungs" in told
    assert (
        "| dense leg | A black hole | on the connection | `dense` left out, no errors, mean ≤ 1.05 ×, p95 ≤ 1.05 × "
        "| 100 requests, 0 errors" in told
    )
    assert "- 100 errors during the fault" in told
    page = as_html(verdicts, **about)
    assert "&lt;here&gt;" in page
    assert page.count("<svg") == 2
    assert "Fault played on the connection." in page
    (green, red) = json.loads(as_json(verdicts, **about))["experiments"]
    assert (green["green"], red["green"], green["played"]) == (True, False, where)
    assert (green["fault_s"], green["healed_s"]) == (10.0, 20.0)
    assert [step["degraded"] for step in green["series"]] == [0] * 10 + [10] * 10 + [0] * 20
    both = replace(verdicts[0], where={**where, "log": "inside the process"})
    assert "| vectors on the connection, log inside the process |" in markdown([both], **about)
