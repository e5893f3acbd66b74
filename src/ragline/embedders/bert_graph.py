"""Write a BERT sentence encoder as an ONNX graph, from its weights, without torch.

`model_files` calls it once per set of weights; `bench/embedder_precision.py` calls it with other ways to multiply.

Three things differ from an exported graph, each measured in docs/adr/0003-minilm-precision.md:
- A call holds texts of one length, so there is neither padding nor an attention mask.
- `int8_by_row` quantises every row (token) of an activation by its own largest value. The usual dynamic int8 takes one
  scale for the whole call, and then a text's vector depends on what else is in the call.
- Residual and normalisation stay two nodes: the fused kernel of ONNX Runtime is several times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Floats: TypeAlias = NDArray[np.float32]

MICROSOFT = "com.microsoft"
"""Domain of the ONNX Runtime operators beyond the standard; its CPU build has them on every platform."""

OPSET = 20
IR_VERSION = 10
"""The newest that ONNX Runtime 1.20 reads."""

GELU_FLOOR = 0.17
"""The smallest value of GELU is -0.16997 (at -0.7518): added to its output, everything is ≥ 0 and uses all 8 bits."""


@dataclass(frozen=True, slots=True)
class BertShape:
    """What config.json says, as far as the graph needs it. `pooling`: how token vectors become one."""

    layers: int
    heads: int
    epsilon: float
    pooling: Literal["mean", "cls"]


@dataclass(slots=True)
class Graph:
    """Nodes and constants in the making."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Add a tensor once; the same name again is the same tensor."""
        from onnx import numpy_helper

        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name)
        return name

    def split(self, operator: str, inputs: list[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node of several outputs; returns their names."""
        from onnx import helper

        domain = MICROSOFT if operator in _CONTRIB else ""
        names = [f"{operator}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; returns its name."""
        return self.split(operator, list(inputs), 1, **attributes)[0]


_CONTRIB = {"BiasGelu", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention"}

Multiply: TypeAlias = Callable[[Graph, str, str, Floats, Floats, bool], str]
"""``(graph, name, x, weight, bias, gelu) → y = x · weight + bias``.

Shapes: weight (inputs, outputs). `gelu`: x is a GELU's output.
"""


def float32(graph: Graph, name: str, x: str, weight: Floats, bias: Floats, gelu: bool) -> str:
    product = graph.add("MatMul", x, graph.constant(f"{name}.weight", weight))
    return graph.add("Add", product, graph.constant(f"{name}.bias", bias))


def int8_by_row(graph: Graph, name: str, x: str, weight: Floats, bias: Floats, gelu: bool) -> str:
    """Multiply in int8: weights with one scale a column, activations with one scale a row, found at run time.

    Exact:   the integer product has no rounding, so every CPU gives the same vector (see `local`, x64quantprecision).
    Rows:    symmetric around 128 in uint8; a GELU's output, shifted by GELU_FLOOR, takes 0 … 255, and the shift goes
             into the bias. A row of zeros cannot be scaled; after a normalisation there is none.
    Source:  per-token activations and per-channel weights, as in Yao et al., ZeroQuant, NeurIPS 2022.
    """
    quantised, scales = int8_columns(weight)
    if gelu:
        floor = graph.constant("gelu_floor", GELU_FLOOR)
        x = graph.add("Add", x, floor)
        largest, levels, zero = x, 255, graph.constant("from_zero", 0, np.uint8)
        shift = GELU_FLOOR * (quantised.astype(np.float32) * scales).sum(axis=0)
        bias = bias - shift.astype(np.float32)
    else:
        largest, levels, zero = graph.add("Abs", x), 127, graph.constant("from_middle", 128, np.uint8)
    peak = graph.add("ReduceMax", largest, graph.constant("last_axis", [-1], np.int64), keepdims=1)
    step = graph.add("Mul", peak, graph.constant(f"step_{levels}", 1 / levels))
    one = graph.constant("one", 1.0)
    rows = graph.add("QuantizeLinear", graph.add("Div", x, step), one, zero)
    product = graph.add(
        "MatMulIntegerToFloat",
        rows,
        graph.constant(f"{name}.weight", quantised, np.int8),
        one,
        graph.constant(f"{name}.scale", scales),
        zero,
        # Its own zero point: where ONNX Runtime rewrites the weights as uint8 it rewrites this one too, once a node.
        graph.constant(f"{name}.zero", 0, np.int8),
    )
    return graph.add("Add", graph.add("Mul", product, step), graph.constant(f"{name}.bias", bias))


def int8_columns(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantise each column to ±127. Returns (inputs, outputs) and the (outputs,) scales."""
    scales = np.maximum(np.abs(weight).max(axis=0) / 127, 1e-12).astype(np.float32)
    return np.clip(np.round(weight / scales), -127, 127).astype(np.int8), scales


def sentence_encoder(weights: Mapping[str, Floats], shape: BertShape, multiply: Multiply) -> ModelProto:
    """The whole model: ``input_ids`` int64 (batch, length) → ``embedding`` float32 (batch, dim), rows of unit length.

    `weights` by their names in a BERT checkpoint. Raises KeyError: a tensor is missing.
    """
    graph = Graph()
    x = _embed_tokens(graph, weights, shape)
    for layer in range(shape.layers):
        x = _layer(graph, weights, shape, f"encoder.layer.{layer}", x, multiply)
    if shape.pooling == "mean":  # the sum points the same way, and its length is taken out below
        pooled = graph.add("ReduceSum", x, graph.constant("axis_1", [1], np.int64), keepdims=0)
    else:
        pooled = graph.add("Gather", x, graph.constant("first", 0, np.int64), axis=1)
    length = graph.add("ReduceL2", pooled, graph.constant("last_axis", [-1], np.int64), keepdims=1)
    graph.outputs.append(graph.add("Div", pooled, length))
    return _model(graph, dim=len(weights["embeddings.LayerNorm.weight"]))


def _embed_tokens(graph: Graph, weights: Mapping[str, Floats], shape: BertShape) -> str:
    tables = {k: weights[f"embeddings.{k}_embeddings.weight"] for k in ("word", "position", "token_type")}
    length = graph.add("Shape", "input_ids", start=1, end=2)
    zero, axis = graph.constant("start", [0], np.int64), graph.constant("axis_0", [0], np.int64)
    table = graph.constant("positions", tables["position"] + tables["token_type"][0])  # one text: always type 0
    positions = graph.add("Slice", table, zero, length, axis)
    words = graph.add("Gather", graph.constant("words", tables["word"]), "input_ids")
    return _normalise(graph, weights, shape, "embeddings.LayerNorm", graph.add("Add", words, positions))


def _layer(graph: Graph, weights: Mapping[str, Floats], shape: BertShape, name: str, x: str, multiply: Multiply) -> str:
    def dense(part: str, value: str, *, gelu: bool = False) -> str:
        weight, bias = weights[f"{name}.{part}.weight"].T, weights[f"{name}.{part}.bias"]
        return multiply(graph, f"{name}.{part}", value, weight, bias, gelu)

    parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    weight = np.concatenate([weights[f"{part}.weight"].T for part in parts], axis=1)
    bias = np.concatenate([weights[f"{part}.bias"] for part in parts])
    packed = multiply(graph, f"{name}.attention.self", x, weight, bias, False)
    query, key, value = graph.split("Split", [packed], 3, axis=-1, num_outputs=3)
    attended = graph.add("MultiHeadAttention", query, key, value, num_heads=shape.heads)
    x = graph.add("Add", dense("attention.output.dense", attended), x)
    x = _normalise(graph, weights, shape, f"{name}.attention.output.LayerNorm", x)
    inner = graph.add("Gelu", dense("intermediate.dense", x))
    x = graph.add("Add", dense("output.dense", inner, gelu=True), x)
    return _normalise(graph, weights, shape, f"{name}.output.LayerNorm", x)


def _normalise(graph: Graph, weights: Mapping[str, Floats], shape: BertShape, name: str, x: str) -> str:
    scale, shift = (graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return graph.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=shape.epsilon)


def _model(graph: Graph, *, dim: int) -> ModelProto:
    from onnx import TensorProto, helper

    result, *taps = graph.outputs
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", dim])]
    graph.nodes.append(helper.make_node("Identity", [result], ["embedding"]))
    for tap in taps:
        outputs.append(helper.make_tensor_value_info(tap, TensorProto.FLOAT, None))
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])]
    body = helper.make_graph(graph.nodes, "sentence_encoder", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ragline")
