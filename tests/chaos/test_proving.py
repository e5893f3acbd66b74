"""Each experiment on the real thing, its logic alone: states, counts, what is left out. Times are for `ragline prove`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ragline.chaos.alarms import Alarms
from ragline.chaos.experiment import Experiment, Fault, shipped
from ragline.chaos.llm import Llm
from ragline.chaos.proving import Pace, Proving
from ragline.chaos.receivers import Receivers
from ragline.chaos.reranker import reranker
from ragline.chaos.stack import Stack
from ragline.cli.prove import LOCAL, played_by
from ragline.errors import ConfigurationError, EngineUnavailable
from tests.deploy.alerts import RULES
from tests.engines.kafka import Kafka
from tests.engines.prometheus import program

PACE = Pace(rate=10.0, before_s=3.0, after_s=3.0)
PLAYED = [one for one in shipped() if one.rung != "overload" and "log" not in one.needs]
FAULT_S, HEALED_S, SLOW_S, LLM_SLOW_S = 6.0, 5.0, 30.0, 1.0
LAGS_S = 20.0
"""Only what is served in the second half of a cached entry's life can be found wrong."""

GENERATOR_HEALED_S = 11.0
"""It is asked every five seconds whether it is back, and must say so twice."""

UNHURRIED = {
    f"RAGLINE_{name}_MS": "3000"
    for name in ("QUERY__KEYWORD_DEADLINE", "QUERY__DENSE_DEADLINE", "QUERY__LEAST_DEADLINE", "QUERY__GRACE",
                 "QUERY__GUARD_DEADLINE", "RERANKER__DEADLINE")
} | {"RAGLINE_QUERY__TARGET_MS": "60000", "RAGLINE_QUERY__RECALL_SHARE": "1", "RAGLINE_CACHE__AUDIT_SHARE": "1"}  # fmt: skip
"""Deadlines that a busy machine meets, and what hangs or is slow does not; of the few queries here each is looked at again."""


@pytest.fixture(scope="module")
async def played() -> AsyncIterator[Llm]:
    async with Llm().serving() as played:
        yield played


@pytest.fixture(scope="module")
async def receivers() -> AsyncIterator[Receivers]:
    async with Receivers().serving() as receivers:
        yield receivers


@pytest.fixture(scope="module")
async def variables(played: Llm, receivers: Receivers) -> AsyncIterator[dict[str, str]]:
    async with reranker() as url:
        yield {**LOCAL, **UNHURRIED, **played_by(played.url, url, receivers.edge, timeout_s=2)}


@pytest.fixture(scope="module")
async def stack(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with Stack(tmp_path_factory.mktemp("prove"), variables, wires=None) as stack:
        yield stack


def _quick(one: Experiment, fault: Fault) -> Fault:
    """As slow as must be left out, or as a generator may be."""
    by = fault.by
    if fault.kind == "slow":
        by = SLOW_S if one.expect.degraded else min(by, LLM_SLOW_S) if fault.target == "llm" else by
    return replace(fault, for_s=LAGS_S if fault.target == "guard" else FAULT_S, by=by)


def _timeless(one: Experiment) -> Experiment:
    healed_s = GENERATOR_HEALED_S if one.rung == "generator" else HEALED_S
    expect = replace(
        one.expect,
        mean_ratio=None,
        p95_ratio=None,
        p95_ms=None,
        goodput_ratio=None,
        healed_after_s=healed_s,
    )
    return replace(
        one,
        rate_share=1.0,
        expect=expect,
        faults=tuple(_quick(one, fault) for fault in one.faults),
    )


@pytest.mark.parametrize("experiment", PLAYED, ids=lambda one: one.name)
async def test_the_rung_holds(stack: Stack, played: Llm, receivers: Receivers, experiment: Experiment) -> None:
    if missing := set(experiment.needs) - await stack.has():
        pytest.skip(f"there is no {', '.join(missing)} here")
    hung = played.seen["hung"]
    seed = 10 * PLAYED.index(experiment) + 1  # else it asks, and uploads, what another one has
    verdict = await Proving(stack, PACE, llm=played, receivers=receivers, seed=seed).run(_timeless(experiment))
    assert verdict.faults == ()
    assert (played.seen["hung"] > hung) == (experiment.name == "llm_hangs")


@pytest.mark.parametrize("one", [one for one in shipped() if "log" in one.needs], ids=lambda one: one.name)
async def test_what_stands_in_the_chunk_log_waits_and_none_is_lost(
    kafka: Kafka, played: Llm, variables: dict[str, str], tmp_path: Path, one: Experiment
) -> None:
    async with Stack(tmp_path, {**variables, "RAGLINE_LOG": kafka.url()}, wires=None) as stack:
        assert set(one.needs) <= await stack.has()
        verdict = await Proving(stack, PACE, llm=played).run(_timeless(one))
    assert verdict.faults == ()


async def test_the_shipped_alert_goes_off_and_clears(stack: Stack, played: Llm, tmp_path: Path) -> None:
    (one,) = [_timeless(one) for one in shipped() if one.name == "keyword_store_down"]
    (fault,) = one.faults
    expect = replace(one.expect, alerts=("RaglineEngineLeftOut", "RaglineDown"))
    one = replace(one, faults=(replace(fault, for_s=4 * FAULT_S),), expect=expect)
    assert program("prometheus")
    async with Alarms(tmp_path / "alarms", RULES, stack.url) as alarms:
        verdict = await Proving(stack, PACE, llm=played, alarms=alarms).run(one)
    assert verdict.alerts is not None
    assert verdict.alerts["RaglineEngineLeftOut"] is True, "it has cleared"
    assert verdict.faults == ("RaglineDown did not fire",)


def test_without_rules_or_with_broken_ones_nothing_is_watched(tmp_path: Path) -> None:
    assert program("prometheus")
    with pytest.raises(ConfigurationError, match="there are no rule files"):
        Alarms(tmp_path / "alarms", tmp_path, "http://127.0.0.1:9")
    (tmp_path / "mine.yml").write_text("groups: no")

    async def watched() -> None:
        async with Alarms(tmp_path / "alarms", tmp_path, "http://127.0.0.1:9"):
            pass

    with pytest.raises(EngineUnavailable, match="Prometheus ended at once"):
        asyncio.run(watched())


async def test_a_rung_whose_protection_is_off_is_red_by_name(
    played: Llm, variables: dict[str, str], tmp_path: Path
) -> None:
    (one,) = [one for one in shipped() if one.name == "every_leg_down"]
    async with Stack(tmp_path, {**variables, **one.without}, wires=None) as stack:
        verdict = await Proving(stack, PACE, llm=played).run(_timeless(one))
    assert any("errors during the fault" in words for words in verdict.faults)
    assert verdict.experiment.rung == "every leg"


async def test_one_that_is_broken_off_leaves_no_fault(stack: Stack, played: Llm) -> None:
    (one,) = [one for one in shipped() if one.name == "vector_store_black_hole"]
    running = asyncio.create_task(Proving(stack, replace(PACE, before_s=0.1), llm=played).run(one))
    while json.loads(stack._faults.read_text()) == {}:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert json.loads(stack._faults.read_text()) == {}
    async with stack.http() as http:
        for _ in range(500):
            told = (await http.post("/v1/search", json={"query": "harbour", "namespace": stack.namespace})).json()
            if not told["degraded"]:
                break
            await asyncio.sleep(0.02)
        assert told["degraded"] == []


async def test_what_is_proved_ends_with_the_proof(variables: dict[str, str], tmp_path: Path) -> None:
    async with Stack(tmp_path, variables, wires=None) as stack:
        process = stack._process
        assert {"cache", "reranker", "llm", "dense", "keyword", "registry"} <= await stack.has()
    assert process
    assert process.returncode is not None
