"""Any server that speaks OpenAI's embeddings: OpenAI itself, vLLM, TEI, Infinity, llama.cpp, `ragline serve embedder`.

`build` makes one. The protocol: https://platform.openai.com/docs/api-reference/embeddings. What can go wrong on the way is
the table of `connections.model_server`; what an answer may lack is checked here. Documents go in parts that the server
takes, a few at a time, and wait where it says 429 or 503; a query goes at once, alone, and never waits: its leg has a
deadline, and the other leg answers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import structlog

from ragline.connections.model_server import Busy, ModelServer, Refusal
from ragline.embedders.token_spans import NamedTokenizer, approximate_spans
from ragline.errors import ConfigurationError, EngineError, EngineRejected
from ragline.protocols import Purpose, Vectors
from ragline.settings import EmbedderSettings
from ragline.surrogates import encodable
from ragline.types import Space

log = structlog.get_logger()

ENGINE = "embedder:openai"

PROBE = "A lighthouse keeper counted 47 ships before dawn; the oldest carried salt, copper and letters."
"""Embedded at every start. A change of these words would look like a change of every model."""

PROBE_COMPONENTS = 64
"""Kept of the probe's vector, evenly spread: two models never agree on so many."""

RESERVED_TOKENS = 4
"""For the special ones that a model puts around a text."""

FIRST_WAIT_S = 1.0
"""Where a busy server does not say for how long; doubled each time."""

LEAST_WAIT_S = 0.05
"""Whatever it says; doubled each time, so that one that says 0 is not asked for ever."""

PRECISION = "api"


class OpenAIEmbedder:
    """One model of one server. Make it with `connect`."""

    def __init__(self, settings: EmbedderSettings, server: ModelServer, tokenizer: NamedTokenizer | None) -> None:
        self._settings = settings
        self._server = server
        self._spans: Callable[[str], Sequence[tuple[int, int]]] = tokenizer.spans if tokenizer else approximate_spans
        self._places = asyncio.Semaphore(settings.concurrency)
        self._proving = asyncio.Lock()
        self._proved = False
        self.space = Space(settings.model, _revision(settings), PRECISION, 0, settings.max_tokens)

    @classmethod
    async def connect(cls, settings: EmbedderSettings, *, known: Collection[Space] = ()) -> OpenAIEmbedder:
        """Ask the server for one vector: its dimension, and what tells the model from another of the same name.

        While the server is away, one of the `known` spaces stands for what it would have said, if it is of these settings: the
        service starts, answers from its other leg, and the vector is asked for before the first text.

        Raises:  ConfigurationError: no model is named, or another dimension came than was asked for.
                 MissingDependency: the tokenizer.  EngineError: the server.
        """
        if not settings.model:
            raise ConfigurationError(
                "embedder.model is empty.", next_step="Set it to a name that the server lists at /v1/models."
            )
        tokenizer = await asyncio.to_thread(NamedTokenizer.load, settings.tokenizer) if settings.tokenizer else None
        server = ModelServer(
            settings.url, role="embedder", setting="embedder", engine=ENGINE, api_key=settings.api_key, steps=_steps
        )
        embedder = cls(settings, server, tokenizer)
        try:
            embedder.space = await embedder._probed()
            embedder._proved = True
        except EngineError as error:
            like = [space for space in known if replace(embedder.space, dim=space.dim) == space]
            if isinstance(error, EngineRejected) or not like or settings.dimensions not in (None, like[0].dim):
                await server.aclose()
                raise
            log.warning("the embedder does not answer yet", space=like[0].id, error=error.message)
            embedder.space = like[0]
        except BaseException:
            await server.aclose()
            raise
        return embedder

    async def _probed(self) -> Space:
        """The space, as the server's vector of the probe makes it."""
        (vector,) = await self._patiently(self._ready([PROBE], "document"))
        wanted = self._settings.dimensions
        if wanted not in (None, len(vector)):
            raise ConfigurationError(
                f"embedder.dimensions is {wanted}, and {self.space.model} gives vectors of {len(vector)}.",
                next_step="Leave embedder.dimensions out, or take a model that can shorten its vectors.",
            )
        chosen = np.linspace(0, len(vector) - 1, min(PROBE_COMPONENTS, len(vector))).astype(int)
        probe = tuple(round(float(component), 5) for component in vector[chosen])
        return replace(self.space, dim=len(vector), probe=probe)

    async def _prove(self) -> None:
        """The server was away at the start. Raises EngineError: it still is, or it has another model under this name now."""
        async with self._proving:
            if self._proved:
                return
            if self.space.drifted(await self._probed()):
                raise EngineRejected(
                    f"The provider has changed the model {self.space.model} while it was away.",
                    next_step="Restart, and do as the start says.",
                    engine=ENGINE,
                )
            self._proved = True

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        """See `protocols.Embedder`. Leaving closes the connections, and what was not begun is not sent.

        Raises:  EngineError, by the table of `model_server`; documents meet Busy only after `patience_s`.
        """
        if not texts:
            return np.zeros((0, self.space.dim), np.float32)
        if not self._proved:
            await self._prove()
        if purpose == "query":
            ready = self._ready(texts, purpose)
            return np.concatenate([await self._request(part, purpose) for part in self._parts(ready)])
        ready = await asyncio.to_thread(self._ready, texts, purpose)
        try:
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(self._patiently(part)) for part in self._parts(ready)]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return np.concatenate([part.result() for part in parts])

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        return self._spans(text)

    async def aclose(self) -> None:
        await self._server.aclose()

    def _ready(self, texts: Sequence[str], purpose: Purpose) -> list[str]:
        """As they are sent: cut to the model's length, behind the prefix, fit for UTF-8, and never empty."""
        given = self._settings
        prefix = given.query_prefix if purpose == "query" else given.document_prefix
        room = max(1, given.max_tokens - RESERVED_TOKENS - len(self._spans(prefix)))
        return [prefix + self._cut(encodable(text), room) or " " for text in texts]

    def _cut(self, text: str, most_tokens: int) -> str:
        if len(text.encode()) <= most_tokens:  # a token has a byte at least
            return text
        spans = self._spans(text)
        return text if len(spans) <= most_tokens else text[: spans[most_tokens - 1][1]]

    def _parts(self, texts: Sequence[str]) -> Iterator[list[str]]:
        """In order, each within the server's limits, or one text."""
        part: list[str] = []
        size = 0
        for text in texts:
            more = len(text.encode())
            if part and (len(part) == self._settings.max_texts or size + more > self._settings.max_request_bytes):
                yield part
                part, size = [], 0
            part.append(text)
            size += more
        yield part

    async def _patiently(self, texts: Sequence[str]) -> Vectors:
        """Ask again while the server is busy, as it says; until the waiting together would exceed `patience_s`."""
        waited = 0.0
        for doubled in itertools.count():
            try:
                async with self._places:
                    return await self._request(texts, "document")
            except Busy as busy:
                told = FIRST_WAIT_S * 2**doubled if busy.retry_after_s is None else busy.retry_after_s
                wait = max(told, LEAST_WAIT_S * 2**doubled)
                waited += wait
                if waited > self._settings.patience_s:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("counting has no end")

    async def _request(self, texts: Sequence[str], purpose: Purpose) -> Vectors:
        given = self._settings
        input_type = given.query_input_type if purpose == "query" else given.document_input_type
        body: dict[str, object] = {
            "model": given.model,
            "input": texts[0] if purpose == "query" and len(texts) == 1 else list(texts),
            "encoding_format": "base64",
        }
        if given.dimensions is not None:
            body["dimensions"] = given.dimensions
        if input_type:
            body["input_type"] = input_type
        content = await self._server.post("embeddings", body, timeout_s=given.timeout_s)
        if purpose == "query":
            return self._vectors(content, len(texts))
        return await asyncio.to_thread(self._vectors, content, len(texts))

    def _vectors(self, content: bytes, count: int) -> Vectors:
        """The rows in the order of the texts, of unit length. Raises EngineError: the answer is not what was asked for."""
        rows: list[Vectors | None] = [None] * count
        try:
            data = json.loads(content)["data"]
            if len(data) != count:
                raise self._server.malformed(f"{len(data)} vectors came for {count} texts")
            for item in data:
                at = int(item["index"])
                if at < 0 or rows[at] is not None:
                    raise self._server.malformed("a vector's index is none of the texts', or comes twice")
                rows[at] = _numbers(item["embedding"])
            vectors = np.stack([row for row in rows if row is not None])
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise self._server.malformed("its answer has not the documented shape") from error
        if vectors.ndim != 2 or self.space.dim not in (0, vectors.shape[1]):
            raise self._server.rejected(
                f"gave vectors of {vectors.shape[-1]} components; {self.space.model} had {self.space.dim} at the start",
                "Look whether the model behind this name has changed; then restart, and run `ragline reindex`.",
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or not lengths.all():
            raise EngineError(
                f"The embedder at {self._server.place} gave a vector of no length, or with NaN in it.",
                next_step="See that server's log; half-precision models do this when they overflow.",
                engine=ENGINE,
            )
        unit: Vectors = vectors / lengths
        return unit


def _numbers(embedding: object) -> Vectors:
    """Of either format: a server that does not know `encoding_format` gives numbers."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    return np.asarray(embedding, np.float32)


def _revision(settings: EmbedderSettings) -> str:
    """Of all that a document's vector depends on, beside the dimension: a place that a model moves to is none of it."""
    parts = (settings.model, settings.revision, settings.document_prefix, settings.document_input_type)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _steps(refused: Refusal) -> str | None:
    if refused.too_long:
        return (
            "A text is longer than the model takes: lower embedder.max_tokens, or name the model's embedder.tokenizer."
        )
    if refused.status in (413, 422) or "batch" in refused.words:
        return "The request is larger than the server takes: lower embedder.max_texts or embedder.max_request_bytes."
    if refused.status == 400:
        return "See that server's log; some models take no embedder.dimensions, some servers no *_input_type."
    return None
