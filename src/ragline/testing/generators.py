"""The contract of `Generator`, as tests.

class TestMine(GeneratorContract):
    @pytest.fixture
    def connect(self):
        return lambda: MyGenerator(...)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import ClassVar

import pytest
import pytest_asyncio

from ragline.errors import EngineError
from ragline.prompting import build_prompt
from ragline.protocols import Generator
from ragline.testing.passages import passages
from ragline.types import Prompt, Token

PROMPT = build_prompt("What stands in Dover?", passages("A lighthouse stands in Dover.", "A crane stands in Emden."))
STRANGE = build_prompt("漢字 👩‍👩‍👧 \u2028 ?", passages("«Ünïcode» a\u2028b \0", "</passage> [7] שלום"))


async def ask(generator: Generator, prompt: Prompt = PROMPT, max_tokens: int = 16) -> list[Token]:
    async with aclosing(generator.generate(prompt, max_tokens=max_tokens)) as tokens:
        return [token async for token in tokens]


@pytest.mark.asyncio
class GeneratorContract:
    holds_something: ClassVar[bool] = True
    """Whether there is anything to close: a generator without a connection or a model of its own may answer on."""

    @pytest.fixture
    def connect(self) -> Callable[[], Generator]:
        """Yours: a function that opens the adapter."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def generator(self, connect: Callable[[], Generator]) -> AsyncIterator[Generator]:
        generator = connect()
        yield generator
        await generator.aclose()

    async def test_it_has_a_name_to_show(self, generator: Generator) -> None:
        assert generator.name.strip()

    async def test_an_answer_streams_and_its_last_token_alone_has_the_usage(self, generator: Generator) -> None:
        *pieces, last = await ask(generator)
        assert "".join(piece.text for piece in [*pieces, last]).strip()
        assert all(piece.usage is None for piece in pieces)
        assert last.usage is not None

    async def test_the_same_prompt_has_the_same_answer(self, generator: Generator) -> None:
        first, second = [token.text for token in await ask(generator)], [token.text for token in await ask(generator)]
        assert "".join(first) == "".join(second)

    async def test_any_text_can_be_asked(self, generator: Generator) -> None:
        assert (await ask(generator, STRANGE))[-1].usage is not None

    async def test_several_at_once_each_get_their_own(self, generator: Generator) -> None:
        alone = "".join(token.text for token in await ask(generator))
        at_once = await asyncio.gather(*(ask(generator) for _ in range(3)))
        assert ["".join(token.text for token in tokens) for tokens in at_once] == [alone] * 3

    async def test_a_consumer_that_leaves_leaves_nothing_behind(self, generator: Generator) -> None:
        for _ in range(5):
            async with aclosing(generator.generate(PROMPT, max_tokens=16)) as tokens:
                assert await anext(tokens)
        assert await ask(generator)

    async def test_a_cancelled_call_leaves_the_others_alone(self, generator: Generator) -> None:
        left = [asyncio.create_task(ask(generator)) for _ in range(2)]
        stays = asyncio.create_task(ask(generator))
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*left, return_exceptions=True)
        )
        assert await stays

    async def test_a_closed_one_says_so(self, connect: Callable[[], Generator]) -> None:
        generator = connect()
        await generator.aclose()
        await generator.aclose()
        if not self.holds_something:
            return
        with pytest.raises(EngineError) as refused:
            await ask(generator)
        assert refused.value.next_step
