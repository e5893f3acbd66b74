"""At which precision should the default embedder multiply? The measurements behind docs/adr/0003-minilm-precision.md.

    python bench/embedder_precision.py --data BEIR_FOLDER [--precisions int8-row fp32 …] [--rounds 5] [--no-quality]

BEIR_FOLDER holds corpus.jsonl, queries.jsonl and qrels/test.tsv, such as SciFact. Prints one row a precision: nDCG@10 of
dense search, cosine to fp32, the largest change of a vector's component when its text is embedded among others instead of
alone, and milliseconds a text on one thread. Timings of all precisions take turns, so that a busy machine slows all of
them; the least of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ragline.embedders import model_files
from ragline.embedders.bert_graph import Floats, Graph, Multiply, float32, int8_by_row, int8_columns
from ragline.embedders.local import Encoder
from ragline.embedders.model_files import ModelFiles

MAX_TOKENS = 256
CALIBRATION_TEXTS = 60
QUERY = "what is the effect of vitamin d on bone density"


# ── other ways to multiply ───────────────────────────────────────────────────────────────────────────────────────────


def int8_dynamic(graph: Graph, name: str, x: str, weight: Floats, bias: Floats, gelu: bool) -> str:
    """What `quantize_dynamic` makes: one scale for all the rows of a call."""
    quantised, scales = int8_columns(weight)
    rows, step, zero = graph.split("DynamicQuantizeLinear", [x], 3)
    return _int8_product(graph, name, rows, step, zero, quantised, scales, bias)


def int8_static(ranges: dict[str, tuple[float, float]]) -> Multiply:
    """One scale a layer, fixed from the `ranges` (least, largest) that calibration texts showed."""

    def multiply(graph: Graph, name: str, x: str, weight: Floats, bias: Floats, gelu: bool) -> str:
        quantised, scales = int8_columns(weight)
        least, largest = ranges[name]
        step = (largest - least) / 255
        step_name = graph.constant(f"{name}.step", step)
        zero = graph.constant(f"{name}.from", round(-least / step), np.uint8)
        rows = graph.add("QuantizeLinear", x, step_name, zero)
        return _int8_product(graph, name, rows, step_name, zero, quantised, scales, bias)

    return multiply


def by_blocks(bits: int, block: int) -> Multiply:
    """`MatMulNBits` with accuracy_level 4: weights and activations with one scale a block of a row."""

    def multiply(graph: Graph, name: str, x: str, weight: Floats, bias: Floats, gelu: bool) -> str:
        inputs, outputs = weight.shape
        blocks = weight.T.reshape(outputs, inputs // block, block)
        middle = 2 ** (bits - 1)
        scales = np.abs(blocks).max(axis=-1, keepdims=True) / (middle - 1)
        packed = (np.clip(np.round(blocks / scales), 1 - middle, middle - 1) + middle).astype(np.uint8)
        if bits == 4:
            packed = packed[..., 0::2] | (packed[..., 1::2] << 4)
        return graph.add(
            "MatMulNBits",
            x,
            graph.constant(f"{name}.weight", packed, np.uint8),
            graph.constant(f"{name}.scale", scales.reshape(-1)),
            "",
            "",
            graph.constant(f"{name}.bias", bias),
            K=inputs,
            N=outputs,
            bits=bits,
            block_size=block,
            accuracy_level=4,
        )

    return multiply


def tapped(graph: Graph, name: str, x: str, weight: Floats, bias: Floats, gelu: bool) -> str:
    """fp32 that also shows the inputs of every product: for calibration."""
    graph.outputs.insert(0, graph.add("Identity", x))
    return float32(graph, name, x, weight, bias, gelu)


def _int8_product(
    graph: Graph, name: str, rows: str, step: str, zero: str, weight: Any, scales: Floats, bias: Floats
) -> str:
    constants = [
        graph.constant(f"{name}.weight", weight, np.int8),
        step,
        graph.constant(f"{name}.scale", scales),
        zero,
        graph.constant(f"{name}.zero", 0, np.int8),
        graph.constant(f"{name}.bias", bias),
    ]
    return graph.add("MatMulIntegerToFloat", rows, *constants)


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Workshop:
    """Makes encoders of the packaged weights."""

    def __init__(self, folder: Path) -> None:
        source = model_files.locate("package")
        self._folder, self._source = folder, source
        self._tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def encoder(self, name: str, multiply: Multiply) -> Encoder:
        path = self._folder / f"{name}.onnx"
        path.write_bytes(model_files._convert(self._source, self._source / "model.safetensors", multiply))
        return Encoder(ModelFiles(path, self._source / "tokenizer.json", "", name, MAX_TOKENS))

    def ranges(self, texts: Sequence[str]) -> dict[str, tuple[float, float]]:
        """What goes into every product, over `texts`, by the product's name."""
        names: list[str] = []

        def tap(graph: Graph, name: str, x: str, weight: Floats, bias: Floats, gelu: bool) -> str:
            names.append(name)
            return tapped(graph, name, x, weight, bias, gelu)

        encoder = self.encoder("tapped", tap)
        seen: dict[str, tuple[float, float]] = {}
        for ids in self.tokens(texts):
            outputs = encoder._session.run(None, {"input_ids": np.asarray([ids], np.int64)})
            # The model's own output comes first, where the last tap was put; the taps follow, the last one first.
            for name, rows in zip(names, reversed(outputs[1:]), strict=True):
                least, largest = seen.get(name, (0.0, 0.0))
                seen[name] = (min(least, float(rows.min())), max(largest, float(rows.max())))
        return seen


# ── measures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def load_beir(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Documents and queries by id; grades by query and document."""

    def rows(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    documents = {row["_id"]: f"{row.get('title', '')} {row['text']}".strip() for row in rows("corpus.jsonl")}
    grades: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        grades.setdefault(query, {})[document] = int(grade)
    queries = {row["_id"]: row["text"] for row in rows("queries.jsonl") if row["_id"] in grades}
    return documents, queries, grades


def ndcg(scores: Floats, documents: list[str], wanted: dict[str, int], *, at: int = 10) -> float:
    """Järvelin & Kekäläinen, TOIS 2002, gains 2^grade - 1."""
    ranked = [wanted.get(documents[i], 0) for i in np.argsort(-scores, kind="stable")[:at]]
    gains, best = (
        sum((2.0**grade - 1) / np.log2(rank + 2) for rank, grade in enumerate(grades))
        for grades in (ranked, sorted(wanted.values(), reverse=True)[:at])
    )
    return float(gains / best) if best else 0.0


def batch_effect(encoder: Encoder, tokens: Sequence[list[int]]) -> tuple[float, float]:
    """Least cosine, and largest change of a component, between 64 texts embedded together and one by one."""
    length = 24
    texts = [ids[: length - 1] + ids[-1:] for ids in tokens if len(ids) >= length][:64]
    together = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([ids]) for ids in texts])
    return float((together * alone).sum(axis=1).min()), float(np.abs(together - alone).max())


def speeds(encoders: dict[str, Encoder], tokens: Sequence[list[int]], rounds: int, query: list[int]) -> dict[str, Any]:
    """Milliseconds a text: a short query alone, 16 of them, a text of 128 tokens, one of 240."""

    def cut(length: int) -> list[int]:
        return next(ids[:length] for ids in tokens if len(ids) >= length)

    shapes = {"query": [query], "16 queries": [query] * 16, "128 tokens": [cut(128)], "240 tokens": [cut(240)]}
    least = {name: dict.fromkeys(shapes, float("inf")) for name in encoders}
    for _ in range(rounds):
        for name, encoder in encoders.items():
            for shape, texts in shapes.items():
                for _ in range(3):
                    took = _timed(lambda encoder=encoder, texts=texts: encoder.encode(texts)) / len(texts)  # type: ignore[misc]
                    least[name][shape] = min(least[name][shape], took)
    return least


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--precisions", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-quality", action="store_true", help="only timings and batch effect: a minute, not 20")
    arguments = parser.parse_args()
    documents, queries, grades = load_beir(arguments.data)
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        calibration = [*list(documents.values())[: CALIBRATION_TEXTS // 2], *list(queries.values())[-30:]]
        makers: dict[str, Callable[[], Multiply]] = {
            "fp32": lambda: float32,
            "int8-row": lambda: int8_by_row,
            "int8-dynamic": lambda: int8_dynamic,
            "int8-static": lambda: int8_static(workshop.ranges(calibration)),
            "8bit-block32": lambda: by_blocks(8, 32),
            "8bit-block128": lambda: by_blocks(8, 128),
            "4bit-block32": lambda: by_blocks(4, 32),
        }
        names = arguments.precisions or list(makers)
        encoders = {name: workshop.encoder(name, makers[name]()) for name in names}
        asked, passages = workshop.tokens(list(queries.values())), workshop.tokens(list(documents.values()))
        took = speeds(encoders, passages, arguments.rounds, workshop.tokens([QUERY])[0])
        print(
            "precision      query   16 q  128tok  240tok | batch: least cos, largest change | nDCG@10  cos to fp32: mean, least"
        )
        reference: Floats | None = None
        for name, encoder in encoders.items():
            cosine, change = batch_effect(encoder, asked)
            times = "".join(f"{took[name][shape]:8.2f}" for shape in took[name])
            print(f"{name:13s}{times} | {cosine:.5f} {change:.1e}", end=" | ", flush=True)
            if arguments.no_quality:
                print()
                continue
            rows, hits = (np.concatenate([encoder.encode([ids]) for ids in texts]) for texts in (passages, asked))
            reference = rows if name == "fp32" else reference
            scores = hits @ rows.T
            mean = np.mean([ndcg(scores[i], list(documents), grades[query]) for i, query in enumerate(queries)])
            closeness = (rows * reference).sum(axis=1) if reference is not None else np.array([np.nan])
            print(f"{mean:.4f}  {closeness.mean():.5f} {closeness.min():.5f}")


if __name__ == "__main__":
    main()
