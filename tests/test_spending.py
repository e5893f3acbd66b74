"""Tokens and cost are counted once, honestly, and in a number of series that namespaces cannot raise."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ragline import metrics
from ragline.answer import Answers, Piece
from ragline.build import build
from ragline.errors import ConfigurationError, EngineUnavailable, InvalidRequest
from ragline.generators.extractive import ExtractiveGenerator
from ragline.protocols import Generator
from ragline.settings import GeneratorSettings, MetricsSettings, Settings, load_settings
from ragline.spending import OTHER, Price, Spending, prices
from ragline.system import System
from ragline.types import NamespaceSettings, Prompt, SearchRequest, Token, Usage
from tests.house import House


def samples(name: str, generator: str) -> dict[tuple[str, ...], float]:
    """(kind, if it has one, namespace, counted) → value, as a scrape would read it."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(metrics.REGISTRY).decode()):
        for sample in family.samples:
            if sample.name == name and sample.labels["generator"] == generator:
                labels = sample.labels
                kind = (labels["kind"],) if "kind" in labels else ()
                found[(*kind, labels["namespace"], labels["counted"])] = sample.value
    return found


@pytest.fixture(autouse=True)
def nothing_counted() -> Iterator[None]:
    yield
    metrics.tokens_total.clear()
    metrics.cost_total.clear()


def test_ten_thousand_namespaces_make_no_more_series_than_have_places() -> None:
    spending = Spending(MetricsSettings(namespaces=("vip",), busiest_namespaces=3), {"m": Price(1.0, 1.0)})
    for turn in range(3):
        for n in range(10_000):
            spending.count(f"n{n}", "m", "prompt", 1 + (n * 7919 + turn) % 97, "reported")
    spending.count("vip", "m", "prompt", 1, "reported")
    for name in ("generation_tokens_total", "generation_cost_total"):
        found = samples(name, "m")
        namespaces = {labels[-2] for labels in found}
        assert {"vip", OTHER} < namespaces
        assert len(namespaces) == len(found) == 3 + 1 + 1


def test_the_busiest_takes_the_place_of_the_quietest_once_it_has_used_twice_as_much() -> None:
    spending = Spending(MetricsSettings(busiest_namespaces=2), {"m": Price(1.0, 2.0)})
    for namespace, tokens in (("big", 1000), ("small", 100), ("late", 200)):
        spending.count(namespace, "m", "completion", tokens, "reported")
    assert samples("generation_tokens_total", "m") == {
        ("completion", "big", "reported"): 1000, ("completion", "small", "reported"): 100,
        ("completion", OTHER, "reported"): 200,
    }  # fmt: skip
    spending.count("late", "m", "completion", 1, "estimated")
    assert samples("generation_tokens_total", "m") == {
        ("completion", "big", "reported"): 1000, ("completion", OTHER, "reported"): 200,
        ("completion", "late", "estimated"): 1,
    }  # fmt: skip
    assert {labels[0] for labels in samples("generation_cost_total", "m")} == {"big", OTHER, "late"}


def test_nobody_has_a_place_where_there_is_none() -> None:
    spending = Spending(MetricsSettings(busiest_namespaces=0), {})
    spending.count("a", "m", "prompt", 5, "reported")
    assert samples("generation_tokens_total", "m") == {("prompt", OTHER, "reported"): 5}
    assert samples("generation_cost_total", "m") == {}


def test_cost_is_tokens_times_price_and_a_free_model_costs_zero() -> None:
    spending = Spending(MetricsSettings(), {"m": Price(3.0, 15.0), "free": Price(0.0, 0.0)})
    spending.count("a", "m", "prompt", 200_000, "reported")
    spending.count("a", "m", "completion", 100_000, "reported")
    spending.count("a", "free", "prompt", 100, "estimated")
    assert samples("generation_cost_total", "m") == {("a", "reported"): pytest.approx(0.6 + 1.5)}
    assert samples("generation_cost_total", "free") == {("a", "estimated"): 0.0}


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a\\b", 'x"} 1\nforged_total 7', "ü" * 300])
def test_a_hostile_name_forges_nothing(name: str) -> None:
    Spending(MetricsSettings(), {name: Price(1.0, 1.0)}).count(name, name, "prompt", 1_000_000, "reported")
    assert samples("generation_tokens_total", name) == {("prompt", name, "reported"): 1_000_000}
    assert samples("generation_cost_total", name) == {(name, "reported"): 1.0}
    families = text_string_to_metric_families(generate_latest(metrics.REGISTRY).decode())
    assert "forged" not in {family.name for family in families}


@pytest.mark.parametrize("name", [OTHER, "a b", 'a"b', "a\nb", "A"])
async def test_no_namespace_can_have_the_label_of_all_others_or_a_hostile_one(system: System, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not a valid name"):
        await system.epochs.create_namespace(name, NamespaceSettings())


def test_one_price_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGLINE_GENERATORS", '[{"url": "http://h/v1", "model": "m", "prompt_price": 3}]')
    with pytest.raises(ConfigurationError, match="prompt_price and completion_price go together"):
        load_settings()


@pytest.mark.parametrize("price", ["-1", "NaN", "Infinity"])
def test_a_price_is_a_number_from_zero_on(monkeypatch: pytest.MonkeyPatch, price: str) -> None:
    monkeypatch.setenv("RAGLINE_GENERATORS", f'[{{"prompt_price": {price}, "completion_price": 1}}]')
    with pytest.raises(ConfigurationError, match="prompt_price"):
        load_settings()


def test_one_name_has_one_price() -> None:
    dear, cheap = (GeneratorSettings(prompt_price=n, completion_price=n) for n in (2.0, 1.0))
    assert prices([("m", dear), ("m", dear), ("n", cheap), ("o", GeneratorSettings())]) == {
        "m": Price(2.0, 2.0), "n": Price(1.0, 1.0),
    }  # fmt: skip
    for other in (cheap, GeneratorSettings()):
        with pytest.raises(ConfigurationError, match="different prices"):
            prices([("m", dear), ("m", other)])


# ── what answers tell it ─────────────────────────────────────────────────────────────────────────────────────────────


class Model:
    """Says `pieces`, then `usage`; or breaks off instead."""

    def __init__(self, *pieces: str, usage: Usage | None = None) -> None:
        self.name = "model"
        self._pieces = pieces
        self._usage = usage

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        for piece in self._pieces:
            yield Token(piece)
        if self._usage is None:
            raise EngineUnavailable("The line went dead.", next_step="Wait.", engine=self.name)
        yield Token("", self._usage)

    async def aclose(self) -> None:
        return None


@pytest.fixture
async def told(house: House) -> House:
    await house.accept("a.txt", "The apple is red. The pear is green.")
    await house.work()
    return house


def answers(system: System, *generators: Generator) -> Answers:
    return Answers(
        search=system.search, generators=generators, embedder=system.embedder, settings=system.settings.query,
        clock=system.clock, spending=Spending(MetricsSettings(), {"model": Price(1e6, 1e6)}),
    )  # fmt: skip


ASKED = SearchRequest("What colour is the apple?", "default", frozenset())


async def test_what_a_generator_reports_is_counted_as_it_says(told: House) -> None:
    await answers(told.system, Model("The apple is red. [1]", usage=Usage(70, 7))).answer(ASKED)
    assert samples("generation_tokens_total", "model") == {
        ("prompt", "default", "reported"): 70, ("completion", "default", "reported"): 7,
    }  # fmt: skip
    assert samples("generation_cost_total", "model") == {("default", "reported"): 77}


async def test_what_it_does_not_report_is_estimated_and_says_so(told: House) -> None:
    await answers(told.system, Model("The apple ", "is red. [1]", usage=Usage())).answer(ASKED)
    found = samples("generation_tokens_total", "model")
    assert found[("completion", "default", "estimated")] == len(
        told.system.embedder.token_spans("The apple is red. [1]")
    )
    assert found[("prompt", "default", "estimated")] > 20
    assert len(found) == 2
    assert samples("generation_cost_total", "model") == {("default", "estimated"): sum(found.values())}


async def test_an_attempt_that_breaks_off_has_cost_tokens(told: House) -> None:
    answer = await answers(told.system, Model("The apple is")).answer(ASKED)
    assert answer.generator == "extractive"
    found = samples("generation_tokens_total", "model")
    assert found[("completion", "default", "estimated")] == 3
    assert ("prompt", "default", "estimated") in found


async def test_one_that_never_answered_has_not(told: House) -> None:
    await answers(told.system, Model()).answer(ASKED)
    assert samples("generation_tokens_total", "model") == {}


async def test_an_answer_that_nobody_waits_for_any_more_has_cost_tokens(told: House) -> None:
    model = Model("The apple is red. ", "[1] And more.", usage=Usage(70, 7))
    async with aclosing(answers(told.system, model).stream(ASKED)) as events:
        async for event in events:
            if isinstance(event, Piece):
                break
    assert set(samples("generation_tokens_total", "model")) == {
        ("prompt", "default", "estimated"), ("completion", "default", "estimated"),
    }  # fmt: skip


async def test_sentences_of_the_passages_are_no_tokens(told: House) -> None:
    await answers(told.system, ExtractiveGenerator(told.system.embedder)).answer(ASKED)
    assert samples("generation_tokens_total", "extractive") == {}


async def test_the_settings_reach_the_counters(tmp_path: Path) -> None:
    given = GeneratorSettings(url="http://127.0.0.1:1/v1", model="m", prompt_price=1.0, completion_price=2.0)
    system = await build(
        Settings(data_dir=tmp_path, generators=(given,), metrics=MetricsSettings(busiest_namespaces=0))
    )
    try:
        spending = system.jobs.answers._spending
        spending.count("a", "openai:m", "completion", 1_000_000, "reported")
    finally:
        await system.aclose()
    assert samples("generation_cost_total", "openai:m") == {(OTHER, "reported"): 2.0}
