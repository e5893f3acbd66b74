"""The query embedder of every framework here: the weights and the ONNX graph that Ragline runs, without Ragline.

The servers run in environments of their own, which lack Ragline; so these lines repeat what matters of
`ragline.embedders.local`, and a query has the same vector in all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ragline.embedders.local import EXACT_SUMS, sums_are_wide

MAX_TOKENS = 256
"""Special tokens included; what the model's sentence_bert_config.json says."""


class MiniLM:
    """One model, loaded from a folder that holds one .onnx and tokenizer.json. Safe to call from several threads.

    Raises ValueError: the folder holds none, or more than one.
    """

    def __init__(self, folder: Path) -> None:
        models = list(folder.glob("*.onnx"))
        if len(models) != 1:
            raise ValueError(
                f"{folder} has {len(models)} .onnx files; give a folder made by bench.frameworks.model_folder."
            )
        options = onnxruntime.SessionOptions()  # its threads as it comes: one a core
        # As Ragline sets them: equal vectors on every CPU, and without the kernel that is slower than its parts.
        if not sums_are_wide():
            options.add_session_config_entry(EXACT_SUMS, "1")
        self._session = onnxruntime.InferenceSession(
            str(models[0]), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, text: str) -> NDArray[np.float32]:
        """Shapes: returns (dim,), unit length."""
        (encoding,) = self._tokenizer.encode_batch_fast([text])
        rows = self._session.run(["embedding"], {"input_ids": np.asarray([encoding.ids], np.int64)})[0]
        vector: NDArray[np.float32] = rows[0]
        return vector
