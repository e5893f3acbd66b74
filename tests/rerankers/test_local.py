"""The cross-encoder in this process: a real BERT graph with fixed random weights. It proves the plumbing, not a ranking."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from ragline.embedders import bert_graph
from ragline.embedders.model_files import locate
from ragline.errors import EngineError, MissingDependency
from ragline.rerankers.local import LocalReranker
from ragline.settings import RerankerSettings
from ragline.testing.rerankers import RerankerContract

DIM, INNER, WORDS, MAX_TOKENS = 32, 64, 30_522, 64


def cross_encoder(outputs: int = 1) -> ModelProto:
    """BERT with one layer, and a linear head over its first token. Its names are those of exported cross-encoders."""
    chance = np.random.default_rng(11)

    def some(*shape: int) -> Any:
        return (chance.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    layer = "encoder.layer.0"
    squares = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    shapes = dict.fromkeys((f"{layer}.{part}" for part in squares), (DIM, DIM))
    shapes |= {f"{layer}.intermediate.dense": (INNER, DIM), f"{layer}.output.dense": (DIM, INNER)}
    weights = {f"{name}.weight": some(*shape) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": some(shape[0]) for name, shape in shapes.items()}
    for name in (f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm", "embeddings.LayerNorm"):
        weights |= {f"{name}.weight": np.ones(DIM, np.float32), f"{name}.bias": np.zeros(DIM, np.float32)}
    shape = bert_graph.BertShape(layers=1, heads=4, epsilon=1e-12, pooling="cls")
    graph = bert_graph.Graph()
    length = graph.add("Shape", "input_ids", start=1, end=2)
    zero, axis = graph.constant("start", [0], np.int64), graph.constant("axis_0", [0], np.int64)
    place = graph.add("Slice", graph.constant("positions", some(MAX_TOKENS, DIM)), zero, length, axis)
    word = graph.add("Gather", graph.constant("words", some(WORDS, DIM)), "input_ids")
    side = graph.add("Gather", graph.constant("types", some(2, DIM)), "token_type_ids")
    mask = graph.add(
        "Unsqueeze", graph.add("Cast", "attention_mask", to=TensorProto.FLOAT), graph.constant("last", [-1], np.int64)
    )
    x = graph.add("Mul", graph.add("Add", graph.add("Add", word, place), side), mask)
    x = bert_graph._normalise(graph, weights, shape, "embeddings.LayerNorm", x)
    x = bert_graph._layer(graph, weights, shape, layer, x, bert_graph.float32)
    first = graph.add("Gather", x, graph.constant("first", 0, np.int64), axis=1)
    logits = bert_graph.float32(graph, "classifier", first, some(DIM, outputs), some(outputs), False)
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in names]
    result = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", outputs])]
    body = helper.make_graph(graph.nodes, "cross_encoder", inputs, result, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", bert_graph.OPSET), helper.make_opsetid(bert_graph.MICROSOFT, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=bert_graph.IR_VERSION)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cross-encoder")
    (folder / "model.onnx").write_bytes(cross_encoder().SerializeToString())
    shutil.copy(locate("package") / "tokenizer.json", folder)
    return folder


async def load(folder: Path) -> LocalReranker:
    return await LocalReranker.load(RerankerSettings(url=f"local://{folder}", max_tokens=MAX_TOKENS))


class TestContract(RerankerContract):
    @pytest.fixture
    def connect(self, folder: Path) -> Callable[[], Awaitable[LocalReranker]]:
        return lambda: load(folder)


async def test_a_score_is_of_both_texts_together(folder: Path) -> None:
    reranker = await load(folder)
    first = await reranker.rerank("ships", ["salt", "copper"])
    second = await reranker.rerank("letters", ["salt", "copper"])
    assert first[0] - first[1] != pytest.approx(second[0] - second[1], abs=1e-4)
    assert reranker.name.startswith("local:cross-encoder")
    await reranker.aclose()


async def test_a_caller_that_leaves_stops_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker, began, seen = await load(folder), asyncio.Event(), []
    loop, score = asyncio.get_running_loop(), reranker._score

    def slow(query: str, text: str) -> float:
        seen.append(text)
        loop.call_soon_threadsafe(began.set)
        left.result(60)
        return score(query, text)

    left: Future[None] = Future()
    monkeypatch.setattr(reranker, "_score", slow)
    task = asyncio.create_task(reranker.rerank("ships", ["a"] * 100))
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    left.set_result(None)
    await reranker.aclose()
    assert seen == ["a"]


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json"])
async def test_a_missing_file_is_named(folder: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / missing).unlink()
    with pytest.raises(MissingDependency, match=missing):
        await load(tmp_path)
    (tmp_path / missing).write_bytes(b"damaged")
    with pytest.raises(MissingDependency, match="cannot be loaded"):
        await load(tmp_path)


async def test_a_model_that_gives_no_one_score_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.onnx").write_bytes(cross_encoder(outputs=3).SerializeToString())
    reranker = await load(tmp_path)
    with pytest.raises(EngineError, match="3 numbers"):
        await reranker.rerank("ships", ["a"])
    await reranker.aclose()
