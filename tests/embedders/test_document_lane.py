"""Texts of many callers meet in one lane, go in calls of one length, and come back to who brought them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ragline.embedders.document_lane import DocumentLane
from ragline.errors import EngineError, EngineUnavailable
from ragline.protocols import Vectors

CEILING_S = 60.0


class Model:
    """An `encode` that waits until it is let on, and gives each text its first token as its vector."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.open = threading.Event()

    def encode(self, tokens: list[list[int]]) -> Vectors:
        self.calls.append([text[0] for text in tokens])
        self.begun.release()
        self.open.wait()
        if any(text[0] < 0 for text in tokens):
            raise EngineUnavailable("The model failed.", next_step="Retry.", engine="test")
        assert len({len(text) for text in tokens}) == 1
        return np.asarray([[text[0]] for text in tokens], np.float32)


def lane(model: Model, *, threads: int = 1) -> DocumentLane:
    return DocumentLane(model.encode, dim=1, threads=threads, tokens_a_call=6)


def text(name: int, length: int) -> list[int]:
    return [name, *[0] * (length - 1)]


async def _begun(model: Model) -> None:
    await asyncio.to_thread(model.begun.acquire)


async def test_first_come_goes_first_and_takes_along_what_has_its_length() -> None:
    model = Model()
    documents = lane(model)
    first = asyncio.create_task(documents.embed([text(1, 2)]))
    await _begun(model)
    second = asyncio.create_task(documents.embed([text(2, 3), text(3, 2), text(4, 9)]))
    third = asyncio.create_task(documents.embed([text(5, 3), text(6, 3), text(7, 2)]))
    await asyncio.sleep(0)
    model.open.set()

    assert (await first).tolist() == [[1]]
    assert (await second).tolist() == [[2], [3], [4]]
    assert (await third).tolist() == [[5], [6], [7]]
    assert model.calls == [[1], [2, 5], [3, 7], [4], [6]]
    await documents.aclose()


async def test_all_threads_work_on_one_request() -> None:
    model = Model()
    documents = lane(model, threads=2)
    both = asyncio.create_task(documents.embed([text(1, 6), text(2, 6)]))
    await _begun(model)
    await _begun(model)
    model.open.set()
    assert (await both).tolist() == [[1], [2]]
    await documents.aclose()


async def test_an_error_reaches_those_in_its_call_and_no_one_else() -> None:
    model = Model()
    documents = lane(model)
    model.open.set()
    bad, good = await asyncio.gather(
        documents.embed([text(-1, 2), text(2, 4)]), documents.embed([text(3, 5)]), return_exceptions=True
    )
    assert isinstance(bad, EngineUnavailable)
    assert not isinstance(good, BaseException)
    assert good.tolist() == [[3]]
    assert (await documents.embed([text(4, 1)])).tolist() == [[4]]
    await documents.aclose()


def _exits(tokens: list[list[int]]) -> Vectors:
    raise SystemExit("enough")


def _refuses(tokens: list[list[int]]) -> Vectors:
    raise ValueError("no")


BAD: dict[str, tuple[Callable[[list[list[int]]], Any], type[Exception], str]] = {
    "too few": (lambda tokens: np.zeros((len(tokens) - 1, 1), np.float32), EngineError, r"shape \(1, 1\)"),
    "too wide": (lambda tokens: np.zeros((len(tokens), 2), np.float32), EngineError, r"shape \(2, 2\)"),
    "flat": (lambda tokens: np.zeros(len(tokens), np.float32), EngineError, r"shape \(2,\)"),
    "nothing": (lambda tokens: None, AttributeError, "shape"),
    "error": (_refuses, ValueError, "no"),
    "exit": (_exits, EngineError, "broken off: SystemExit enough"),
}


@pytest.mark.parametrize("name", BAD)
async def test_after_as_many_bad_calls_as_there_are_threads_the_next_good_call_works(name: str) -> None:
    bad, told, words = BAD[name]

    def encode(tokens: list[list[int]]) -> Vectors:
        if tokens[0][0] < 0:
            rows: Vectors = bad(tokens)
            return rows
        return np.asarray([[text[0]] for text in tokens], np.float32)

    documents = DocumentLane(encode, dim=1, threads=2, tokens_a_call=6)
    async with asyncio.timeout(CEILING_S):
        for _ in range(2):
            with pytest.raises(told, match=words):
                await documents.embed([text(-1, 2), text(-2, 2)])
        assert (await documents.embed([text(4, 1), text(5, 2)])).tolist() == [[4], [5]]
    await documents.aclose()


async def test_a_thread_that_may_not_lower_its_priority_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbidden)
    model = Model()
    model.open.set()
    documents = lane(model)
    assert (await documents.embed([text(1, 2)])).tolist() == [[1]]
    await documents.aclose()


async def test_a_thread_that_cannot_be_started_is_not_counted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    model.open.set()
    documents = lane(model)

    def full(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(documents._pool, "submit", full)
        with pytest.raises(RuntimeError, match="new thread"):
            await documents.embed([text(1, 2)])
    async with asyncio.timeout(CEILING_S):
        assert (await documents.embed([text(2, 2)])).tolist() == [[2]]
    assert model.calls == [[2]]
    await documents.aclose()


async def test_who_leaves_takes_along_what_was_not_begun() -> None:
    model = Model()
    documents = lane(model)
    first = asyncio.create_task(documents.embed([text(1, 2)]))
    await _begun(model)
    gone = asyncio.create_task(documents.embed([text(2, 3), text(3, 4)]))
    await asyncio.sleep(0)
    gone.cancel()
    last = asyncio.create_task(documents.embed([text(4, 3)]))
    await asyncio.sleep(0)
    model.open.set()
    await asyncio.gather(first, last)
    assert model.calls == [[1], [4]]
    await documents.aclose()


async def test_at_the_end_what_runs_is_finished_and_what_waits_is_told() -> None:
    model = Model()
    documents = lane(model)
    running = asyncio.create_task(documents.embed([text(1, 2)]))
    await _begun(model)
    waiting = asyncio.create_task(documents.embed([text(2, 3)]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(documents.aclose())
    with pytest.raises(EngineUnavailable, match="closed"):
        await waiting
    model.open.set()
    await closing
    assert (await running).tolist() == [[1]]
    with pytest.raises(EngineUnavailable, match="closed"):
        await documents.embed([text(3, 1)])


async def test_nothing_to_embed() -> None:
    documents = lane(Model())
    assert (await documents.embed([])).shape == (0, 1)
    await documents.aclose()
