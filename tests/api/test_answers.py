"""Answers over HTTP: cited, streamed, and honest when the documents do not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from ragline import answer as path
from ragline.answer import Answers
from ragline.breaker import RUNNING
from ragline.errors import EngineUnavailable, Overloaded
from ragline.protocols import Generator
from ragline.types import Prompt, Token, Usage
from tests.api.conftest import Api

QUESTION = {"query": "How many days do customers have to return an unopened item?", "namespace": "help"}


@pytest.fixture(scope="module", autouse=True)
async def help_pages(api: Api) -> None:
    await api.call("PUT", "/v1/namespaces/help", status=201)
    await api.upload(
        ("returns.md", "# Returns\n\nCustomers may return an unopened item within 30 days. A receipt is needed."),
        ("shipping.md", "# Shipping\n\nOrders leave the warehouse on the next working day. Shipping costs 5 euros."),
        ("opening.md", "# Opening hours\n\nThe shop is open from Monday to Saturday, from 9 to 18 o'clock."),
        namespace="help",
    )


def _events(text: str) -> list[tuple[str, Any]]:
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n", 1)
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


class Scripted:
    """A generator that says what it is told, and may break off."""

    def __init__(self, name: str, pieces: list[str], *, breaks: bool = False) -> None:
        self.name = name
        self._pieces = pieces
        self._breaks = breaks
        self.closed = 0
        self.asked_for: list[int] = []

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        self.asked_for.append(max_tokens)
        try:
            if max_tokens == 1 and self._breaks:
                raise EngineUnavailable("The line went dead.", next_step="Wait.", engine=self.name)
            for piece in self._pieces:
                yield Token(piece)
            if self._breaks:
                raise EngineUnavailable("The line went dead.", next_step="Wait.", engine=self.name)
            yield Token("", Usage(10, len(self._pieces)))
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        return None


def _with(api: Api, *generators: Generator) -> Answers:
    system = api.system
    return Answers(
        search=system.search,
        generators=generators,
        embedder=system.embedder,
        settings=system.settings.query,
        clock=system.clock,
        pressure=system.query._pressure,
    )


def _answers(api: Api) -> Answers:
    """Those that `generators` has put there."""
    return cast(Answers, api.system.answers)


@pytest.fixture
def generators(api: Api, monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(*given: Generator) -> None:
        object.__setattr__(api.system, "answers", _with(api, *given))

    kept = api.system.answers
    yield use
    object.__setattr__(api.system, "answers", kept)


async def test_an_answer_is_cited_and_its_citation_holds_the_fact(api: Api) -> None:
    answer = await api.call("POST", "/v1/answers", json=QUESTION)
    assert answer["grounded"]
    assert answer["generator"] == "extractive"
    assert "30 days" in answer["answer"]
    cited = [passage for passage in answer["passages"] if passage["n"] in answer["citations"]]
    assert any("30 days" in passage["text"] for passage in cited)
    assert answer["degraded"] == []


async def test_what_the_documents_do_not_answer_is_refused(api: Api) -> None:
    question = {**QUESTION, "query": "Who won the chess world championship in 1972?"}
    answer = await api.call("POST", "/v1/answers", json=question)
    assert not answer["grounded"]
    assert answer["citations"] == []
    assert "do not answer" in answer["answer"]


async def test_a_stream_shows_passages_then_tokens_then_the_whole(api: Api) -> None:
    response = await api.call("POST", "/v1/answers", json={**QUESTION, "stream": True})
    events = _events(response.text)
    names = [name for name, _ in events]
    assert names[0] == "passages"
    assert names[-1] == "done"
    assert set(names[1:-1]) == {"token"}
    done = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "token").strip() == done["answer"]


async def test_a_bad_request_for_a_stream_is_an_ordinary_problem(api: Api) -> None:
    problem = await api.call("POST", "/v1/answers", json={"query": "x", "namespace": "no", "stream": True}, status=404)
    assert problem["next_step"]


async def test_a_generated_answer_that_holds_stands_and_dangling_citations_go(api: Api, generators: Any) -> None:
    generators(Scripted("toy", ["Customers may return an unopened ", "item within 30 days [", "1][7]."]))
    answer = await api.call("POST", "/v1/answers", json=QUESTION)
    assert answer["answer"] == "Customers may return an unopened item within 30 days [1]."
    assert (answer["generator"], answer["citations"], answer["grounded"]) == ("toy", [1], True)
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 3}


async def test_a_generator_that_breaks_off_is_replaced_by_the_next(api: Api, generators: Any) -> None:
    broken = Scripted("broken", ["Customers may"], breaks=True)
    generators(broken, Scripted("spare", ["An unopened item may be returned within 30 days [1]."]))
    events = _events((await api.call("POST", "/v1/answers", json={**QUESTION, "stream": True})).text)
    names = [name for name, _ in events]
    assert "restarted" in names
    done = events[-1][1]
    assert (done["generator"], done["degraded"]) == ("spare", ["generator:broken"])
    after = [data["text"] for name, data in events[names.index("restarted") :] if name == "token"]
    assert "".join(after) == done["answer"]
    assert broken.closed == 1


async def test_an_answer_that_does_not_hold_gives_way_to_sentences_of_the_documents(api: Api, generators: Any) -> None:
    generators(Scripted("liar", ["Items may be returned within 900 years, said the Queen of Sheba [1]."]))
    answer = await api.call("POST", "/v1/answers", json=QUESTION)
    assert (answer["generator"], answer["degraded"]) == ("extractive", ["ungrounded"])
    assert "30 days" in answer["answer"]
    assert "Sheba" not in answer["answer"]


class Limited(Scripted):
    """Refuses the first `times` calls with a Retry-After."""

    def __init__(self, name: str, pieces: list[str], *, times: int, retry_after_s: float) -> None:
        super().__init__(name, pieces)
        self._times = times
        self._retry_after_s = retry_after_s
        self.asked = 0

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        self.asked += 1
        if self.asked <= self._times:
            raise Overloaded("Too many.", next_step="Wait.", retry_after_s=self._retry_after_s)
        async for token in super().generate(prompt, max_tokens=max_tokens):
            yield token


HOLDS = ["Customers may return an unopened item within 30 days [1]."]


async def test_a_generator_that_limits_is_waited_for_as_it_says(api: Api, generators: Any) -> None:
    limited = Limited("limited", HOLDS, times=2, retry_after_s=0.01)
    generators(limited, Scripted("second", HOLDS))
    answer = await api.call("POST", "/v1/answers", json=QUESTION)
    assert (answer["generator"], answer["degraded"], limited.asked) == ("limited", [], 3)


async def test_but_not_for_long_then_the_next_answers_and_then_the_extractive_one(api: Api, generators: Any) -> None:
    limited = Limited("limited", HOLDS, times=9, retry_after_s=60)
    generators(limited, Scripted("second", HOLDS))
    answer = await api.call("POST", "/v1/answers", json=QUESTION)
    assert (answer["generator"], answer["degraded"], limited.asked) == ("second", ["generator:limited"], 1)

    generators(limited, Limited("second", HOLDS, times=9, retry_after_s=60))
    answer = await api.call("POST", "/v1/answers", json=QUESTION)
    assert answer["generator"] == "extractive"
    assert answer["degraded"] == ["generator:limited", "generator:second"]
    assert "30 days" in answer["answer"]


async def test_one_that_says_0_and_means_it_not_is_asked_a_few_times_only(
    api: Api, generators: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = Limited("limited", HOLDS, times=99, retry_after_s=0)
    quick = api.system.settings.query.model_copy(update={"generator_patience_ms": 250})
    generators(limited, Scripted("second", HOLDS))
    monkeypatch.setattr(api.system.answers, "_settings", quick)
    answer = await api.call("POST", "/v1/answers", json=QUESTION)
    assert (answer["generator"], limited.asked) == ("second", 3)


@pytest.mark.parametrize("came", [0, 2])
async def test_one_that_fails_again_and_again_is_passed_over_until_it_comes_a_token_further(
    api: Api, generators: Any, monkeypatch: pytest.MonkeyPatch, came: int
) -> None:
    monkeypatch.setattr(path, "PROBE_EVERY_S", 0.001)
    broken = Scripted("broken", ["Thirty ", "days "][:came], breaks=True)
    generators(broken, Scripted("second", HOLDS))
    for n in range(RUNNING):
        told = await api.call("POST", "/v1/answers", json={**QUESTION, "query": f"{QUESTION['query']} {n}"})
        assert (told["generator"], told["degraded"], len(broken.asked_for)) == ("second", ["generator:broken"], n + 1)
    breaker, asked = _answers(api).breakers[0], len(broken.asked_for)
    while len(broken.asked_for) < asked + 4:
        await asyncio.sleep(0)
    assert breaker.standing().left_out, "also by probes whose first tokens came"
    told = await api.call("POST", "/v1/answers", json=QUESTION)
    assert (told["generator"], told["degraded"]) == ("second", ["generator:broken"])
    broken._breaks, broken._pieces = False, HOLDS
    while breaker.is_open:
        await asyncio.sleep(0)
    told = await api.call("POST", "/v1/answers", json={**QUESTION, "query": f"{QUESTION['query']} again"})
    assert (told["generator"], told["degraded"]) == ("broken", [])
    assert broken.asked_for[RUNNING:-1], "it was probed"
    assert set(broken.asked_for[RUNNING:-1]) == {came + 1}, "no question was spent on finding out"


async def test_under_overload_the_sentences_of_the_passages_answer(api: Api, generators: Any) -> None:
    scripted = Scripted("dear", HOLDS)
    generators(scripted)
    pressure = _answers(api)._pressure
    assert pressure
    pressure._in_use = pressure.places - 1
    told = await api.call("POST", "/v1/answers", json={**QUESTION, "query": f"{QUESTION['query']} In a hurry?"})
    pressure._in_use -= pressure.places - 1
    assert (told["generator"], len(scripted.asked_for)) == ("extractive", 0)
    assert told["degraded"] == ["candidates", "generator:dear"]


async def test_beyond_that_it_is_refused_with_a_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    pressure = api.system.query._pressure
    monkeypatch.setattr(pressure, "_in_use", pressure.places)
    refused = await api.call("POST", "/v1/answers", json={**QUESTION, "query": "Is it full?"}, status=429)
    assert refused["next_step"]
    async with api.client() as client:
        response = await client.post("/v1/search", json={"query": "Is it full?", "namespace": "help"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
