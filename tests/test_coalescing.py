"""What queued while the last call ran is done together, in order, and nobody pays for somebody else's error."""

from __future__ import annotations

import asyncio

import pytest

from ragline.coalescing import Coalescer
from ragline.tracing import CURRENT, REQUEST_ID, Span, Unrecorded, under


class Gate:
    """A `run` that waits until it is let on, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()

    async def run(self, batch: list[int]) -> list[int | Exception]:
        self.batches.append(batch)
        await self.open.wait()
        return [ValueError(f"{item}") if item < 0 else item * 10 for item in batch]


async def _queued() -> None:
    """Let every task that can run come to its next wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_first_goes_alone_and_the_rest_together() -> None:
    gate = Gate()
    call: Coalescer[int, int] = Coalescer(gate.run, most=100)
    tasks = [asyncio.create_task(call(1))]
    await _queued()
    tasks += [asyncio.create_task(call(item)) for item in (2, 3, 4)]
    await _queued()
    gate.open.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30, 40]
    assert gate.batches == [[1], [2, 3, 4]]


async def test_batches_respect_the_weight_but_hold_at_least_one() -> None:
    gate = Gate()
    gate.open.set()
    call: Coalescer[int, int] = Coalescer(gate.run, most=5, weigh=lambda item: item)
    await asyncio.gather(*(call(item) for item in (2, 3, 1, 9, 1)))
    assert gate.batches == [[2, 3], [1], [9], [1]]


NEVER_S = 1e9


async def test_with_a_pace_the_first_goes_at_once_and_a_stream_is_gathered_until_there_is_enough() -> None:
    gate = Gate()
    gate.open.set()
    call: Coalescer[int, int] = Coalescer(gate.run, most=100, enough=3, pace_s=lambda: NEVER_S)
    assert await call(1) == 10
    tasks = []
    for item in (2, 3):
        tasks.append(asyncio.create_task(call(item)))
        await _queued()
    assert gate.batches == [[1]]
    assert await asyncio.gather(*tasks, call(4)) == [20, 30, 40]
    assert gate.batches == [[1], [2, 3, 4]]


async def test_a_hurry_sends_what_waits() -> None:
    gate = Gate()
    gate.open.set()
    call: Coalescer[int, int] = Coalescer(gate.run, most=100, enough=3, pace_s=lambda: NEVER_S)
    await call(1)
    waiting = asyncio.create_task(call(2))
    await _queued()
    assert gate.batches == [[1]]
    call.hurry()
    assert await waiting == 20


async def test_without_a_pace_any_more_nothing_waits_and_who_left_does_not_count_as_enough() -> None:
    gate = Gate()
    gate.open.set()
    pace = [NEVER_S]
    call: Coalescer[int, int] = Coalescer(gate.run, most=100, enough=2, pace_s=lambda: pace[0])
    await call(1)
    left = asyncio.create_task(call(2))
    await _queued()
    left.cancel()
    waiting = asyncio.create_task(call(3))
    await _queued()
    assert gate.batches == [[1]]
    pace[0] = 0.0
    assert await call(4) == 40
    assert await waiting == 30
    assert gate.batches == [[1], [3, 4]]


async def test_an_error_result_reaches_its_own_caller_only() -> None:
    gate = Gate()
    gate.open.set()
    call: Coalescer[int, int] = Coalescer(gate.run, most=100)
    good, bad = await asyncio.gather(call(1), call(-1), return_exceptions=True)
    assert good == 10
    assert isinstance(bad, ValueError)


async def test_when_the_call_itself_fails_all_of_its_batch_get_the_error_and_the_next_batch_goes_on() -> None:
    calls = 0

    async def run(batch: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("once")
        return batch

    call: Coalescer[int, int] = Coalescer(run, most=1)
    first, second = await asyncio.gather(call(1), call(2), return_exceptions=True)
    assert isinstance(first, RuntimeError)
    assert second == 2


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_results_is_an_error_of_the_whole_batch_and_the_next_batch_goes_on(count: int) -> None:
    async def run(batch: list[int]) -> list[int]:
        return [7] * count if len(batch) == 2 else batch

    call: Coalescer[int, int] = Coalescer(run, most=2)
    first, second, third = await asyncio.gather(call(1), call(2), call(3), return_exceptions=True)
    for told in (first, second):
        assert isinstance(told, RuntimeError)
        assert str(told) == f"{count} results came back for 2 items."
    assert third == 3


async def test_a_caller_that_leaves_before_its_turn_takes_its_item_along_and_disturbs_nobody() -> None:
    gate = Gate()
    call: Coalescer[int, int] = Coalescer(gate.run, most=1)
    tasks = [asyncio.create_task(call(item)) for item in (1, 2, 3)]
    await _queued()
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    assert await tasks[2] == 30
    assert gate.batches == [[1], [3]]
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_what_is_done_for_many_is_nobodys_request() -> None:
    seen: list[tuple[str, Span | None]] = []

    async def run(batch: list[int]) -> list[int]:
        seen.append((REQUEST_ID.get(), CURRENT.get()))
        return batch

    call: Coalescer[int, int] = Coalescer(run, most=100)
    token = REQUEST_ID.set("of the first")
    with under(Unrecorded("a" * 32, "b" * 16)):
        await call(1)
    REQUEST_ID.reset(token)
    assert seen == [("", None)]
