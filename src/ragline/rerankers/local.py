"""A cross-encoder in this process, on the CPU, through ONNX Runtime: `model.onnx` and `tokenizer.json` of any BERT-like one.

`build` makes one. A pair costs what its tokens cost, as for an embedder of that size. `reranker.candidates` and
`reranker.deadline_ms` bound it, and a query that stops waiting stops the work between two calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ragline.errors import EngineError, EngineUnavailable, MissingDependency
from ragline.settings import RerankerSettings
from ragline.surrogates import encodable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENGINE = "reranker:local"
HUB_FILES = ["tokenizer.json", "config.json", "model.onnx", "onnx/model.onnx"]


class LocalReranker:
    """One model, loaded. Make it with `load`. Scores are the model's own logits, higher is better."""

    def __init__(self, name: str, session: Any, tokenizer: Tokenizer, *, threads: int) -> None:
        self.name = f"local:{name}"
        self.scale = f"rerank:{self.name}"
        self._session = session
        self._inputs = [node.name for node in session.get_inputs()]
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(threads, "rerank")
        self._closed = False

    @classmethod
    async def load(cls, settings: RerankerSettings) -> LocalReranker:
        """`settings.url`: ``local:///folder`` or ``local://hub/OWNER/NAME``. Raises MissingDependency."""
        return await asyncio.to_thread(cls._load, settings)

    @classmethod
    def _load(cls, settings: RerankerSettings) -> LocalReranker:
        import onnxruntime  # type: ignore[import-untyped]
        from tokenizers import Tokenizer

        folder = _folder(settings.url)
        weights = next(
            (path for path in (folder / "model.onnx", folder / "onnx" / "model.onnx") if path.is_file()), None
        )
        if weights is None or not (folder / "tokenizer.json").is_file():
            raise MissingDependency(
                f"The reranker's folder {folder} needs tokenizer.json and model.onnx (or onnx/model.onnx).",
                next_step="Put the missing file there, or correct reranker.url.",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # neither library raises anything narrower
            raise MissingDependency(
                f"The reranker in {folder} cannot be loaded: {type(error).__name__}.",
                next_step="Fetch its files again, or correct reranker.url.",
            ) from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(settings.max_tokens, strategy="longest_first")
        name = settings.model or f"{folder.name}-{_sha256(weights)[:8]}"
        return cls(name, session, tokenizer, threads=settings.threads)

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """See `protocols.Reranker`. A caller that leaves stops the work before its next pair."""
        if self._closed:
            raise EngineUnavailable("The reranker is closed.", next_step="Send the request again.", engine=ENGINE)
        left = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._scores, query, list(texts), left)
        except asyncio.CancelledError:
            left.set()
            raise

    async def aclose(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    def _scores(self, query: str, texts: Sequence[str], left: threading.Event) -> list[float]:
        """A pair a call: no padding, and no score that depends on the others."""
        scores: list[float] = []
        for text in texts:
            if left.is_set():
                break
            scores.append(self._score(encodable(query), encodable(text)))
        return scores

    def _score(self, query: str, text: str) -> float:
        pair = self._tokenizer.encode(query, text)
        given = {"input_ids": pair.ids, "attention_mask": pair.attention_mask, "token_type_ids": pair.type_ids}
        feeds = {name: np.asarray([given[name]], np.int64) for name in self._inputs if name in given}
        try:
            logits = np.asarray(self._session.run(None, feeds)[0], np.float32).reshape(-1)
        except Exception as error:
            raise EngineError(
                f"The reranking model failed: {type(error).__name__}.",
                next_step="Look whether it is a cross-encoder with one score a pair (reranker.url).",
                engine=ENGINE,
            ) from error
        if len(logits) != 1 or not np.isfinite(logits[0]):
            raise EngineError(
                f"The reranking model gave {len(logits)} numbers for a pair, or none that counts.",
                next_step="Take a cross-encoder with one score a pair (reranker.url).",
                engine=ENGINE,
            )
        return float(logits[0])


def _folder(url: str) -> Path:
    place = url.removeprefix("local://")
    if not place.startswith("hub/"):
        return Path(place).expanduser()
    name = place.removeprefix("hub/")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingDependency(
            f"reranker.url names {name} of the hub, but package huggingface-hub is not installed.",
            next_step="Run `pip install 'ragline[hub]'`, or set reranker.url to a folder, as local:///folder.",
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingDependency(
            f"Reranker {name} cannot be downloaded from the hub: {type(error).__name__}.",
            next_step="Check the name and the network, or set reranker.url to a folder.",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
