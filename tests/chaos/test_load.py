"""The generator by itself, in virtual time, against a server that does what the test says."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from ragline.chaos.load import Load
from ragline.chaos.queries import Zipf, queries_of
from ragline.chaos.samples import Kind, Lost, Samples
from ragline.chaos.target import CouldNotRun
from tests.engines.played import nowhere
from tests.virtual_time import run_virtually

FOUND = {"passages": [], "degraded": [], "cached": False}

Respond = Callable[[str, str, Any], Awaitable[tuple[int, Any]]]
"""Method, path and body to status and JSON."""


@asynccontextmanager
async def server(respond: Respond) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines)
                content = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = first.split(" ")
                body = json.loads(content) if "json" in headers.get("content-type", "") else content
                status, said = await respond(method, path, body)
                answer = said if isinstance(said, bytes) else json.dumps(said).encode()
                writer.write(b"HTTP/1.1 %d Played\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)) + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


def loaded(respond: Respond, for_s: float, *, stop_s: float | None = None, **options: Any) -> Samples:
    given: dict[str, Any] = {"queries": ["shipping"], "rate": 50.0, **options}

    async def work() -> Samples:
        async with server(respond) as url:
            load = Load(url, **given)
            if stop_s is not None:
                asyncio.get_running_loop().call_later(stop_s, load.stop)
            return await load.run(for_s)

    return run_virtually(work())


async def at_once(method: str, path: str, body: Any) -> tuple[int, Any]:
    return 200, FOUND


async def never(method: str, path: str, body: Any) -> tuple[int, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def test_arrivals_are_those_of_a_poisson_process() -> None:
    """Of all that are due in 120 s at 50 a second, one is sent and the rest find it in flight: that costs nothing."""
    samples = loaded(never, 120, most_in_flight=1, timeout_s=1000)
    due = [one.at_s for one in samples]
    gaps = [after - before for before, after in pairwise(due)]
    assert len(due) == pytest.approx(6_000, rel=0.04)
    assert statistics.stdev(gaps) == pytest.approx(statistics.fmean(gaps), rel=0.05)  # an exponential's are the same
    assert sum(gap > 2 / 50 for gap in gaps) / len(gaps) == pytest.approx(0.1353, rel=0.1)  # exp(-2)
    seconds = Counter(int(at) for at in due)
    counts = [seconds[n] for n in range(120)]
    assert statistics.variance(counts) == pytest.approx(statistics.fmean(counts), rel=0.35)  # a Poisson's are the same


def test_a_seed_gives_the_same_requests_at_the_same_times() -> None:
    async def heard(seed: int) -> tuple[list[Any], list[float]]:
        bodies: list[Any] = []

        async def listen(method: str, path: str, body: Any) -> tuple[int, Any]:
            bodies.append((path, body["query"]))
            return 200, FOUND

        async with server(listen) as url:
            options: dict[str, Any] = {"queries": ["a", "b", "c"], "rate": 20.0, "answers": 0.3, "seed": seed}
            samples = await Load(url, **options).run(10)
        return bodies, [one.at_s for one in samples]

    assert run_virtually(heard(1)) == run_virtually(heard(1))
    assert run_virtually(heard(1))[1] != run_virtually(heard(2))[1]


def test_a_server_that_stands_still_is_seen_by_all_that_were_due_meanwhile() -> None:
    """It answers at once, but for the second from 5 to 6: a closed loop of a few callers would have a few slow requests."""
    begun: list[float] = []

    async def stalls(method: str, path: str, body: Any) -> tuple[int, Any]:
        now = asyncio.get_running_loop().time()
        begun.append(now)
        if 5 <= now - 1000 < 6:  # virtual time begins at 1000
            await asyncio.sleep(1006 - now)
        return 200, FOUND

    samples = loaded(stalls, 10)
    stalled = samples.between(5.0, 6.0)
    assert len(stalled) > 30
    assert all(one.took_ms == pytest.approx((6 - one.at_s) * 1000, abs=5) for one in stalled)
    assert (stalled.percentile(50) or 0) > 400
    assert (samples.percentile(99) or 0) > 800
    assert (samples.percentile(50) or 99) < 5
    assert len(begun) == len(samples)


def test_a_request_that_waited_in_the_generator_counts_from_when_it_was_due() -> None:
    """A generator that is kept from its work for a second has the requests of that second late, and says so."""

    async def work() -> Samples:
        async with server(at_once) as url:
            load = Load(url, queries=["x"], rate=50.0)
            loop = asyncio.get_running_loop()

            def busy() -> None:
                loop._jumping.jumped_s += 1.0  # type: ignore[attr-defined]

            loop.call_later(3.0, busy)
            return await load.run(5)

    samples = run_virtually(work())
    held = samples.between(3.0, 4.0)
    assert len(held) > 30
    assert all(one.late_ms == pytest.approx((4 - one.at_s) * 1000, abs=5) for one in held)
    assert all(one.took_ms >= one.late_ms for one in held)
    assert samples.late_ms > 500


def test_what_is_not_sent_is_counted() -> None:
    samples = loaded(never, 10, most_in_flight=3, timeout_s=100)
    assert len(samples) == pytest.approx(500, rel=0.2)
    assert samples.outcomes() == {"timeout": 3, "unsent": len(samples) - 3}
    assert samples.failed_share == 1.0
    assert samples.within(1e9) == 0.0


def test_stopped_at_any_time_nothing_is_lost() -> None:
    whole = loaded(never, 3, timeout_s=100)
    stopped = loaded(never, 60, stop_s=3.0, timeout_s=100)
    assert [one.at_s for one in stopped] == [one.at_s for one in whole]
    assert stopped.outcomes() == {"stopped": len(whole)}
    assert stopped.for_s == pytest.approx(3.0)
    assert stopped.failed == 0
    first = stopped[0]
    assert first.took_ms == pytest.approx((3 - first.at_s) * 1000)
    assert stopped.within(1000) == 0.0  # over the limit by then
    assert stopped.within(5000) is None


def test_every_answer_is_recorded_as_it_was() -> None:
    told = iter(
        [
            (200, FOUND), (200, {**FOUND, "degraded": ["dense", "guard"]}), (200, {**FOUND, "cached": True}),
            (429, {"detail": "full"}), (503, {"detail": "away"}), (200, b"<html>"),
        ]
    )  # fmt: skip

    async def in_turn(method: str, path: str, body: Any) -> tuple[int, Any]:
        return next(told, (200, FOUND))

    samples = loaded(in_turn, 2)
    assert [(one.status, one.degraded, one.cached, one.lost) for one in samples[:6]] == [
        (200, (), False, None), (200, ("dense", "guard"), False, None), (200, (), True, None),
        (429, (), False, None), (503, (), False, None), (0, (), False, Lost.BROKEN),
    ]  # fmt: skip
    assert samples.failed == 3


def test_without_a_server_every_request_is_counted_as_lost() -> None:
    async def work() -> Samples:
        load = Load(nowhere(), queries=["x"], rate=50.0)
        with pytest.raises(CouldNotRun, match="does not answer"):
            await load.check()
        return await load.run(1)

    samples = run_virtually(work())
    assert len(samples) > 30
    assert samples.outcomes() == {"broken off": len(samples)}


def test_kinds_come_by_their_shares() -> None:
    async def write_too(method: str, path: str, body: Any) -> tuple[int, Any]:
        return 200, {**FOUND, "documents": [{"id": "d", "state": "received"}]}

    samples = loaded(write_too, 60, writes=0.2, answers=0.3)
    counts = Counter(one.kind for one in samples)
    assert counts[Kind.WRITE] / len(samples) == pytest.approx(0.2, abs=0.03)
    assert counts[Kind.ANSWER] / len(samples) == pytest.approx(0.3, abs=0.03)


def test_a_namespace_that_cannot_be_deleted_is_named() -> None:
    async def no_delete(method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "DELETE" and path.count("/") == 3:
            return 503, {"detail": "The registry is away.", "next_step": "Wait."}
        return 200, {**FOUND, "documents": [{"id": "d", "state": "received"}]}

    async def work() -> str:
        async with server(no_delete) as url:
            load = Load(url, queries=["x"], rate=10.0, writes=0.5)
            assert load.left_behind == ""
            await load.run(1)
            return load.left_behind

    said = run_virtually(work())
    assert said.startswith("load-")
    assert "The registry is away." in said


def test_queries_are_drawn_by_zipf() -> None:
    dice, drawn = Random(5), 50_000
    for exponent in (1.0, 0.0):
        counts = Counter(Zipf(10, exponent).draw(dice) for _ in range(drawn))
        weights = [1 / (rank + 1) ** exponent for rank in range(10)]
        for rank, weight in enumerate(weights):
            assert counts[rank] / drawn == pytest.approx(weight / sum(weights), rel=0.08)


def test_queries_are_made_of_titles() -> None:
    titles = ["Returns and refunds", "Shipping to Berlin", "Shipping to Berlin", "", "Warranty"]
    made = queries_of(titles, seed=3, most=20)
    assert set(made[:3]) == {"Returns and refunds", "Shipping to Berlin", "Warranty"}
    assert len(set(made)) == len(made) == 20
    assert made == queries_of(titles, seed=3, most=20) != queries_of(titles, seed=4, most=20)
    with pytest.raises(CouldNotRun, match="no document"):
        queries_of(["", "…"], seed=0)


@pytest.mark.parametrize(
    "options", [{"rate": 0}, {"writes": 0.6, "answers": 0.6}, {"most_in_flight": 0}, {"queries": []}]
)
def test_numbers_out_of_their_range_are_refused(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"queries": ["x"], "rate": 1.0, **options}
    with pytest.raises(ValueError, match=r"must|needs"):
        Load("http://localhost", **given)
