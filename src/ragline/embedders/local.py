"""The default embedder: a sentence encoder in this process, on the CPU, through ONNX Runtime.

`build` makes one. Queries and documents have sessions and threads of their own, so that a query never stands behind
ingest: document threads (`document_lane`) take short model calls, let waiting queries go first between two of them, and
run at a lower priority. Every model call holds texts of one length: no padding, and no text that depends on its
neighbours.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ragline.background import Queries
from ragline.embedders.document_lane import DocumentLane, closed
from ragline.embedders.model_files import READY_MADE, ModelFiles, Precision, damaged, locate, prepare
from ragline.errors import EngineError
from ragline.priority import lower_priority
from ragline.protocols import Purpose, Vectors
from ragline.surrogates import encodable
from ragline.types import Space

if TYPE_CHECKING:
    from tokenizers import Tokenizer

A = TypeVar("A")
R = TypeVar("R")

ENGINE = "embedder:local"

TOKENS_A_CALL = 256
"""Tokens of one model call. About 30 ms on one core; more a call gains nothing (docs/adr/0003-minilm-precision.md)."""

SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""Graph rewrites that ONNX Runtime must leave: this kernel takes 7 times what its two parts take."""

EXACT_SUMS = "session.x64quantprecision"
"""Without it, a CPU that has AVX2 but no VNNI saturates 16-bit sums, and its vectors differ from everyone's; with it, one that
has VNNI takes 1.9 times as long for a query and 2.6 times for a document, for the same vectors."""


class LocalEmbedder:
    """One model, loaded. Make it with `load`."""

    def __init__(
        self,
        space: Space,
        tokenizer: Tokenizer,
        *,
        queries: Encoder,
        documents: Encoder,
        threads: int,
        query_threads: int,
        under_way: Queries,
    ) -> None:
        self.space = space
        self._whole = tokenizer
        self._cut = _cut_at(tokenizer, space.max_tokens)
        self._queries = queries
        self._documents = documents
        self._query_threads = ThreadPoolExecutor(query_threads, "embed-query")
        self._document_tokens = ThreadPoolExecutor(1, "embed-tokenise", initializer=lower_priority)
        self._lane = DocumentLane(self._one_document_call, dim=space.dim, threads=threads, tokens_a_call=TOKENS_A_CALL)
        self._under_way = under_way
        self._tokenising, self._encoding = threading.Lock(), threading.Lock()
        self._closed = False

    @classmethod
    async def load(
        cls,
        model: str,
        *,
        source: str,
        cache_dir: Path,
        precision: Precision = "int8",
        threads: int = 0,
        query_threads: int = 1,
        queries: Queries | None = None,
    ) -> LocalEmbedder:
        """Load `model`, whose files `source` names (see `model_files.locate`).

        Threads: `threads` is how many document calls run at a time, 0 = one a core; `query_threads` the same for
                 queries. A model call itself runs on one thread.
        Queries: documents are embedded between those of `queries`, which are to be counted there, and of this embedder; while
                 they come, on one thread: with every core busy, each of the handful of threads that a search goes through
                 waits for one.
        Raises:  MissingDependency, ConfigurationError.
        """
        load = partial(
            cls._load, model, source, cache_dir, precision, threads=threads, query_threads=query_threads,
            under_way=queries or Queries(),
        )  # fmt: skip
        return await asyncio.to_thread(load)

    @classmethod
    def _load(
        cls, model: str, source: str, cache_dir: Path, precision: Precision, *, threads: int, query_threads: int,
        under_way: Queries,
    ) -> LocalEmbedder:  # fmt: skip
        from tokenizers import Tokenizer

        files = prepare(locate(source), cache_dir=cache_dir, precision=precision)
        try:
            tokenizer = Tokenizer.from_file(str(files.tokenizer))
        except Exception as error:  # the library raises nothing narrower
            raise damaged(files.tokenizer, error) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        queries, documents = Encoder(files), Encoder(files)
        probe = _cut_at(tokenizer, files.max_tokens).encode_batch_fast(["warm up, and see the dimension"])[0].ids
        dim = queries.encode([probe]).shape[1]
        return cls(
            Space(model, files.revision, files.precision, dim, files.max_tokens),
            tokenizer,
            queries=queries,
            documents=documents,
            threads=threads or _cores(),
            query_threads=query_threads,
            under_way=under_way,
        )

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        """See `protocols.Embedder`. The texts of concurrent document calls meet in one lane."""
        if purpose == "document":
            return await self._lane.embed(await self._call(self._document_tokens, self._tokens_of_documents, texts))
        with self._under_way.under_way():
            return await self._call(self._query_threads, self._query_vectors, texts)

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        # A batch of one: `encode` would hold the interpreter lock.
        (encoding,) = self._whole.encode_batch([encodable(text)], add_special_tokens=False)
        spans: list[tuple[int, int]] = encoding.offsets
        return spans

    async def aclose(self) -> None:
        self._closed = True
        for pool in (self._query_threads, self._document_tokens):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        await self._lane.aclose()
        for encoder in (self._queries, self._documents):
            encoder.close()

    def _query_vectors(self, texts: Sequence[str]) -> Vectors:
        """All of it in one hop to a thread: for a short query the hop is a good part of the time."""
        vectors = np.empty((len(texts), self.space.dim), np.float32)
        tokens = self._tokens(texts)
        for call in _calls(tokens):
            vectors[call] = self._queries.encode([tokens[i] for i in call])
        return vectors

    async def _call(self, pool: ThreadPoolExecutor, work: Callable[[A], R], given: A) -> R:
        if self._closed:
            raise closed()
        return await asyncio.get_running_loop().run_in_executor(pool, work, given)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._cut.encode_batch_fast([encodable(text) for text in texts])]

    def _tokens_of_documents(self, texts: Sequence[str]) -> list[list[int]]:
        with self._under_way.between(self._tokenising):
            return self._tokens(texts)

    def _one_document_call(self, tokens: list[list[int]]) -> Vectors:
        with self._under_way.between(self._encoding):
            return self._documents.encode(tokens)


class Encoder:
    """One ONNX session: token ids to vectors of unit length."""

    def __init__(self, files: ModelFiles) -> None:
        import onnxruntime  # type: ignore[import-untyped]

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if not sums_are_wide():
            options.add_session_config_entry(EXACT_SUMS, "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(files.model), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS
            )
        except Exception as error:  # ONNX Runtime's errors share no narrower class
            raise damaged(files.model, error) from error
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._output = _vector_output([node.name for node in self._session.get_outputs()])
        self._ours = files.precision != READY_MADE

    def close(self) -> None:
        """Its memory is free then, some 50 MiB, and not when the collector comes by."""
        self._session = None

    def encode(self, tokens: list[list[int]]) -> Vectors:
        """Shapes: `tokens` (texts, length), one length for all; returns float32 (texts, dim)."""
        if not self._ours and len(tokens) > 1:  # its arithmetic is unknown: texts of one call might not be independent
            return np.concatenate([self.encode([text]) for text in tokens])
        ids = np.asarray(tokens, np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        try:
            rows: Vectors = self._session.run([self._output], {name: feeds[name] for name in self._inputs})[0]
        except Exception as error:
            raise EngineError(
                f"The embedding model failed: {type(error).__name__}.",
                next_step="Retry; if it happens again, look at the process's memory.",
                engine=ENGINE,
            ) from error
        if self._ours:
            return rows
        pooled = rows.mean(axis=1) if rows.ndim == 3 else rows
        unit: Vectors = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)
        return unit


def _vector_output(names: Sequence[str]) -> str:
    """The output that holds a vector a text; else the first, which holds one a token and is averaged."""
    return next((name for name in ("embedding", "sentence_embedding") if name in names), names[0])


def _calls(tokens: Sequence[Sequence[int]]) -> list[list[int]]:
    """Positions in `tokens`, shortest first, grouped into model calls: one length each, at most TOKENS_A_CALL."""
    calls: list[list[int]] = []
    for i in sorted(range(len(tokens)), key=lambda i: len(tokens[i])):
        length = len(tokens[i])
        if calls and len(tokens[calls[-1][0]]) == length and (len(calls[-1]) + 1) * length <= TOKENS_A_CALL:
            calls[-1].append(i)
        else:
            calls.append([i])
    return calls


def _cut_at(tokenizer: Tokenizer, max_tokens: int) -> Tokenizer:
    cut = type(tokenizer).from_str(tokenizer.to_str())
    cut.enable_truncation(max_tokens)
    return cut


@cache
def sums_are_wide() -> bool:
    """Whether this CPU adds up products of 8-bit numbers without saturating. Unknown is no: slower, and never wrong."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_vnni" in words or "avx_vnni" in words


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
