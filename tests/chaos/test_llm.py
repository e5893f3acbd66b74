"""The played language model, as our own adapter and a whole system use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import aiohttp
import pytest

from ragline.chaos.llm import Behaviour, Llm, reply
from ragline.citations import check, holds, is_refusal
from ragline.errors import EngineUnavailable, Overloaded
from ragline.generators.openai import OpenAIGenerator
from ragline.prompting import build_prompt
from ragline.settings import GeneratorSettings
from ragline.testing.passages import passages
from ragline.types import Prompt

TEXTS = "Parcels leave at noon. Shipping to Berlin takes three days. Returns are free.", "The moon is far."
PROMPT = build_prompt("How long does shipping to Berlin take?", passages(*TEXTS))


@pytest.fixture
async def llm() -> AsyncIterator[Llm]:
    async with Llm().serving() as one:
        yield one


async def answer(llm: Llm, prompt: Prompt = PROMPT, *, max_tokens: int = 200) -> str:
    generator = OpenAIGenerator(GeneratorSettings(url=llm.url, model="played"))
    try:
        async with aclosing(generator.generate(prompt, max_tokens=max_tokens)) as tokens:
            return "".join([token.text async for token in tokens])
    finally:
        await generator.aclose()


async def test_it_quotes_the_sentence_that_answers_and_cites_it(llm: Llm) -> None:
    said = await answer(llm)
    assert said == "Shipping to Berlin takes three days. [1]"
    assert check(said, [1, 2]).citations == (1,)
    assert holds(said, PROMPT.passages)
    assert llm.seen["answered"] == 1


def test_without_a_passage_it_refuses() -> None:
    assert is_refusal(reply(build_prompt("Anything?", ()).user))


async def test_an_answer_is_as_long_as_it_may_be(llm: Llm) -> None:
    assert await answer(llm, max_tokens=2) == "Shipping to"


async def test_whole_answers_hold_the_same_words(llm: Llm) -> None:
    messages = [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": PROMPT.user}]
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{llm.url}/chat/completions", json={"model": "played", "messages": messages}) as response:
            said = await response.json()
        assert said["choices"][0]["message"]["content"] == "Shipping to Berlin takes three days. [1]"
        assert said["usage"]["completion_tokens"] == 7
        async with http.post(f"{llm.url}/chat/completions", json={"model": "played"}) as response:
            assert response.status == 400


async def test_it_limits_fails_and_answers_again_as_it_is_told(llm: Llm) -> None:
    llm.behaviour = Behaviour(limited_share=1.0, retry_after_s=7)
    with pytest.raises(Overloaded) as limited:
        await answer(llm)
    assert limited.value.retry_after_s == 7
    llm.behaviour = Behaviour(failing_share=1.0)
    with pytest.raises(EngineUnavailable, match="500"):
        await answer(llm)
    llm.behaviour = Behaviour()
    assert await answer(llm)
    assert (llm.seen["limited"], llm.seen["failed"], llm.seen["answered"]) == (1, 1, 1)


async def test_a_share_of_requests_is_limited(llm: Llm) -> None:
    llm.behaviour = Behaviour(limited_share=0.3)
    for _ in range(60):
        try:
            await answer(llm)
        except Overloaded:
            continue
    assert llm.seen["limited"] + llm.seen["answered"] == 60
    assert 8 <= llm.seen["limited"] <= 28  # by its seed; 18 are expected


async def test_it_hangs_in_the_middle_until_the_client_leaves(llm: Llm) -> None:
    llm.behaviour = Behaviour(hang_after=3)
    generator = OpenAIGenerator(GeneratorSettings(url=llm.url, model="played"))
    heard: list[str] = []

    async def listen() -> None:
        async for token in generator.generate(PROMPT, max_tokens=200):
            heard.append(token.text)

    listening = asyncio.create_task(listen())
    while llm.seen["hung"] == 0:
        await asyncio.sleep(0.001)
    while len(heard) < 3:
        await asyncio.sleep(0.001)
    listening.cancel()
    await asyncio.wait([listening])
    await generator.aclose()
    while llm.seen["left"] == 0:
        await asyncio.sleep(0.001)
    assert heard == ["Shipping", " to", " Berlin"]
    assert llm.seen["answered"] == 0


def test_tokens_come_when_they_are_due() -> None:
    """In virtual time: the first after two seconds, then four a second."""
    from tests.virtual_time import run_virtually

    async def work() -> list[float]:
        llm, loop = Llm(Behaviour(first_token_s=2.0, tokens_per_s=4.0)), asyncio.get_running_loop()
        begun = loop.time()
        return [loop.time() - begun async for _ in llm._paced(["a", "b", "c"], begun)]

    assert run_virtually(work()) == pytest.approx([2.0, 2.25, 2.5])


async def test_it_is_told_by_http_as_well(llm: Llm) -> None:
    control = llm.url.removesuffix("/v1") + "/control"
    async with aiohttp.ClientSession() as http:
        async with http.patch(control, json={"limited_share": 1, "retry_after_s": 2}) as response:
            assert (await response.json())["limited_share"] == 1
        assert llm.behaviour == Behaviour(limited_share=1, retry_after_s=2)
        for wrong in ({"limited_share": 2}, {"first_token_s": -1}, {"speed": 1}, {"retry_after_s": "soon"}):
            async with http.patch(control, json=wrong) as response:
                assert response.status == 422
        async with http.get(control) as response:
            assert (await response.json())["seen"]["answered"] == 0
    assert llm.behaviour == Behaviour(limited_share=1, retry_after_s=2)
