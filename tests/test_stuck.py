"""Nothing stays stuck: attempts that make no step, processes that end without a word, clocks that go back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ragline import metrics
from ragline.api.next_step import next_step
from ragline.build import build
from ragline.registry.claims import Claims
from ragline.settings import IngestSettings, Settings
from ragline.system import System
from ragline.types import Document, State, Upload
from ragline.workers import ALONE_AFTER, BLAMED_AFTER


class Clock:
    """The system's clock with an offset that is set by hand."""

    def __init__(self, system: System) -> None:
        self._now, self._monotonic = system.clock.now, system.clock.monotonic
        self.ahead_s = 0.0
        self.later_s = 0.0

    def now(self) -> float:
        return self._now() + self.ahead_s

    def monotonic(self) -> float:
        return self._monotonic() + self.later_s


@pytest.fixture
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    limits = IngestSettings(max_attempts=2, chunked_deadline_s=60.0, received_deadline_s=60.0, sweep_deadline_s=60.0)
    system = await build(Settings(data_dir=tmp_path_factory.mktemp("data"), ingest=limits))
    yield system
    await system.aclose()


async def _accept(system: System, text: str = "Herons wait.") -> Document:
    namespace = await system.namespaces.get("default")
    return (await system.ingest.accept(namespace, Upload("a.txt", text.encode()))).document


async def _look(system: System, id: str) -> Document:
    found = await system.documents.look(id)
    assert found is not None
    return found


async def _until(condition: Any) -> None:
    async with asyncio.timeout(120.0):
        while not await condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _working(system: System) -> AsyncIterator[None]:
    task = asyncio.create_task(system.ingest_worker.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _events(system: System, id: str) -> list[tuple[int, str]]:
    return [(entry.attempt, entry.event) for entry in await system.documents.history(id)]


async def test_an_attempt_without_a_step_is_stopped_told_and_begun_again(system: System, monkeypatch: Any) -> None:
    document = await _accept(system)
    reached, real, calls = asyncio.Event(), system.embedder.embed, 0

    async def hangs_once(*args: Any, **words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            reached.set()
            await asyncio.Event().wait()
        return await real(*args, **words)

    monkeypatch.setattr(system.ingest._embedder, "embed", hangs_once)
    clock = Clock(system)
    monkeypatch.setattr(system.ingest_worker, "_clock", clock)
    before = metrics.stalled_total.labels("embedding")._value.get()
    async with _working(system):
        await reached.wait()
        work = system.ingest.in_work[document.id]
        assert (work.stage, work.done, work.total, work.attempt) == ("embedding", 0, 1, 1)
        step = await next_step(system, await _look(system, document.id))
        assert "A worker is at it: embedding, 0 of 1 chunks." in step.words
        assert step.at is not None
        system.ingest_worker.stop_stalled()
        assert document.id in system.ingest.in_work, "within its deadline it goes on"
        clock.later_s = 61.0
        system.ingest_worker.stop_stalled()

        async def interrupted() -> bool:
            return (1, "interrupted") in await _events(system, document.id)

        await _until(interrupted)
        waiting = await next_step(system, await _look(system, document.id))
        assert "attempt 2 begins then" in waiting.words
        clock.later_s = 0.0

        async def indexed() -> bool:
            return (await _look(system, document.id)).state is State.INDEXED

        await _until(indexed)
    assert metrics.stalled_total.labels("embedding")._value.get() == before + 1
    story = await system.documents.history(document.id)
    stopped = next(entry for entry in story if entry.event == "interrupted")
    assert stopped.detail == "No step for 60 s while embedding (0 of 1 chunks): ingest.chunked_deadline_s."
    assert stopped.took_s is not None
    assert [event for _, event in await _events(system, document.id)] == [
        "created", "parsed", "interrupted", "begun again", "indexed",
    ]  # fmt: skip
    assert system.ingest.in_work == {}
    assert (await next_step(system, await _look(system, document.id))).words == (
        "Nothing: what was accepted last is served."
    )


async def test_an_attempt_that_hangs_every_time_ends_failed_with_the_limits_it_met(
    system: System, monkeypatch: Any
) -> None:
    document = await _accept(system)

    async def hangs(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(system.ingest, "parse", hangs)
    clock = Clock(system)
    clock.later_s = 61.0
    monkeypatch.setattr(system.ingest_worker, "_clock", clock)

    async def failed() -> bool:
        system.ingest_worker.stop_stalled()
        if not system.ingest.in_work:  # its next attempt need not be waited for
            await system.database.write(lambda c: c.exec_driver_sql("UPDATE documents SET lease_until = 0").rowcount)
        return (await _look(system, document.id)).state is State.FAILED

    async with _working(system):
        await _until(failed)
    reason = (await _look(system, document.id)).reason
    assert reason
    assert "ingest.received_deadline_s" in reason
    assert "(2 such attempts: ingest.max_attempts)" in reason
    assert "documents retry" in (await next_step(system, await _look(system, document.id))).words


async def test_a_process_that_ended_without_a_word_is_told_in_the_story(system: System) -> None:
    document = await _accept(system)
    assert len(await system.claims.claim(most=1, lease_s=3600.0)) == 1
    held = await next_step(system, await _look(system, document.id))
    assert "A worker of another process holds it." in held.words
    await system.claims.end_all_leases()
    story = await system.documents.history(document.id)
    assert [(entry.attempt, entry.event, entry.detail) for entry in story][1:] == [
        (1, "interrupted", "the process that was at it ended")
    ]
    assert (await next_step(system, await _look(system, document.id))).words == (
        "It waits for a worker: it is next; attempt 2."
    )
    await system.claims.end_all_leases()
    assert len(await system.documents.history(document.id)) == 2, "told once"


async def test_what_was_given_back_in_order_is_not_told_as_lost(system: System) -> None:
    document = await _accept(system)
    (claimed,) = await system.claims.claim(most=1, lease_s=3600.0)
    await system.claims.release(claimed, after_s=60.0, detail="The store is away.", took_s=0.5)
    await system.claims.end_all_leases()
    assert [event for _, event in await _events(system, document.id)] == ["created", "interrupted"]


@pytest.mark.parametrize("held", [True, False], ids=["claimed", "given back for a second"])
async def test_a_clock_that_jumps_back_a_day_holds_nothing_up(system: System, held: bool) -> None:
    clock = Clock(system)
    clock.ahead_s = 86_400.0
    document = await _accept(system)
    tomorrow = Claims(system.database, clock)
    (late,) = await tomorrow.claim(most=1, lease_s=300.0)
    if not held:
        await tomorrow.release(late, after_s=1.0, detail="The store is away.")
    assert await system.claims.claim(most=1, lease_s=300.0) == []
    assert await system.claims.end_leases_beyond(310.0) == 1
    (again,) = await system.claims.claim(most=1, lease_s=300.0)
    assert again.attempt == 2
    assert not await tomorrow.mark_chunked(late, chunks=1, title="t", took_s=0.0), "the older attempt is fenced off"
    assert await system.claims.end_leases_beyond(310.0) == 0, "a lease of today is left alone"
    await system.ingest.process(again)
    now = await _look(system, document.id)
    assert now.state is State.INDEXED
    assert (await system.audit.look()).findings == []


async def test_changes_accepted_after_the_clock_went_back_still_win(system: System, monkeypatch: Any) -> None:
    clock = Clock(system)
    monkeypatch.setattr(system.documents, "_clock", clock)
    clock.ahead_s = 86_400.0
    first = await _accept(system, "Herons of tomorrow.")
    clock.ahead_s = 0.0
    second = await _accept(system, "Herons of today.")
    assert second.revision > first.revision
    async with _working(system):
        assert await system.documents.settled("default", second.revision, deadline_s=120.0)
    now = await _look(system, second.id)
    assert (now.live, now.state) == (second.content, State.INDEXED)


async def _killed(system: System, *, at_work: int) -> None:
    """As if the process had been killed while it was at so many documents, the oldest."""
    assert len(await system.claims.claim(most=at_work, lease_s=3600.0)) == at_work
    await system.claims.end_all_leases()


async def test_a_document_that_kills_its_process_each_time_fails_and_those_beside_it_do_not(
    system: System, monkeypatch: Any
) -> None:
    namespace = await system.namespaces.get("default")
    ids = [
        (await system.ingest.accept(namespace, Upload(f"{n}.txt", f"Heron {n} wades.".encode()))).document.id
        for n in range(3)
    ]
    for _ in range(ALONE_AFTER):
        await _killed(system, at_work=3)
    real, beside = system.ingest.process, []

    async def process(document: Document) -> None:
        beside.append(len(system.ingest.in_work))
        if document.id == ids[0]:
            reached.set()
            await asyncio.Event().wait()
        await real(document)

    monkeypatch.setattr(system.ingest, "process", process)
    while (await _look(system, ids[0])).state is not State.FAILED:
        reached = asyncio.Event()
        async with _working(system):
            done = [asyncio.create_task(reached.wait()), asyncio.create_task(_until(lambda: _failed(system, ids[0])))]
            await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.cancel()
            if reached.is_set():  # the other suspect waits unclaimed
                await _until(lambda: _held(system, 1))
        if reached.is_set():  # it was given back in order; this is the kill
            await _killed(system, at_work=1)
    await _settle(system)
    assert set(beside) == {0}, "each was alone"
    reason = (await _look(system, ids[0])).reason
    assert reason
    assert reason.startswith(f"crashed: {BLAMED_AFTER} times the process that was at it ended")
    assert [(await _look(system, id)).state for id in (ids[1], ids[2])] == [State.INDEXED] * 2


async def _held(system: System, count: int) -> bool:
    leased = "SELECT count(*) FROM documents WHERE lease_until > 0"
    return bool(await system.database.read(lambda c: c.exec_driver_sql(leased).scalar() == count))


async def _failed(system: System, id: str) -> bool:
    return (await _look(system, id)).state is State.FAILED


async def _settle(system: System) -> None:
    async def settled() -> bool:
        return await system.documents.waiting() == 0

    async with _working(system):
        await _until(settled)
