"""Streams over a real socket: events once and in order whatever is cut, answers as they come about, connections let go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from ragline.api import access
from ragline.api.problems import problem
from ragline.build import build
from ragline.client import (
    Answer,
    AsyncClient,
    Closed,
    Found,
    Gone,
    InvalidRequest,
    JobEvent,
    JobFailed,
    NotFound,
    NotReachable,
    NotUnderstood,
    Refused,
    TimedOut,
    Token,
    Unauthenticated,
)
from ragline.errors import EngineUnavailable
from ragline.settings import JobsSettings, Settings
from ragline.types import JobState
from tests.api.conftest import OWNER, Api
from tests.client.conftest import WITHIN_S, Gate, on_a_socket
from tests.client.cutting import Cutting
from tests.engines.postgres import Postgres
from tests.job_house import QUESTION, JobHouse, Scripted, says

ODD = ["Customers may return ", "an “unopened” item\u2028", "within 30 days [1]."]
"""What readers of lines would part, and bytes of which a cut may leave half a character."""

NAMES = ["queued", "retrieving", "passages", "generating", "token", "done"]


async def _told(client: AsyncClient, job: str, *, after: int = 0) -> list[JobEvent]:
    async with asyncio.timeout(WITHIN_S):
        return [event async for event in client.follow(job, after=after)]


async def test_a_job_is_followed_to_its_answer(client: AsyncClient, model: Any) -> None:
    model(Scripted(ODD))
    job = await client.ask(QUESTION)
    told = await _told(client, job.id)
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    assert list(dict.fromkeys(event.name for event in told)) == NAMES
    assert "".join(event.text for event in told) == "".join(ODD)
    done = await client.job(job.id)
    assert (done.state, done.query, done.error) == ("done", QUESTION, None)
    assert told[-1].answer == done.answer == await client.wait_job(job.id)
    assert await _told(client, job.id, after=len(told)) == []
    assert await _told(client, job.id, after=3) == told[3:]


@pytest.fixture
async def two(postgres: Postgres, tmp_path: Path) -> AsyncIterator[tuple[JobHouse, Api, Api]]:
    """Two replicas, with nothing in common but the jobs' store; the first one's workers work when told."""
    jobs = JobsSettings(url=await postgres.database())
    systems = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        systems.append(await build(Settings(data_dir=tmp_path / name, jobs=jobs)))
    yield JobHouse(systems[0]), Api(systems[0]), Api(systems[1])
    for system in systems:
        await system.aclose()


async def test_cut_at_any_byte_the_other_replica_goes_on_and_the_events_are_the_same(
    two: tuple[JobHouse, Api, Api],
) -> None:
    house, first, second = two
    await house.fill()
    says(first.system, Scripted(ODD))
    job = (await house.ask(caller=access.OWNER)).id
    await house.retrieve()
    assert (await house.generate()).state is JobState.DONE
    async with on_a_socket(first.app) as one, on_a_socket(second.app) as other:
        async with AsyncClient(one, key=OWNER) as client:
            whole = await _told(client, job)
        assert list(dict.fromkeys(event.name for event in whole)) == NAMES
        tls = ssl.create_default_context()  # not used, but dear to make
        length = len((await first.call("GET", f"/v1/jobs/{job}/events")).content)
        for cut in range(0, length + 300, 67):  # headers are cut, too
            async with Cutting(one) as to_one, Cutting(other) as to_other:
                to_one.after_bytes, to_other.after_bytes = cut, cut // 2
                async with AsyncClient(to_one.url, to_other.url, key=OWNER, timeout_s=WITHIN_S, tls=tls) as client:
                    assert await _told(client, job) == whole
                if cut < length:  # beyond, the whole of `done` may have come through
                    assert to_one.cuts == 1
                    assert to_other.taken >= 1


async def test_cut_again_and_again_while_it_comes_about(client: AsyncClient, gate: Gate, url: str, model: Any) -> None:
    steps = asyncio.Semaphore(0)
    model(Scripted([f"{n} " for n in range(8)], steps=steps))
    job, told = (await client.ask(QUESTION)).id, []
    async with Cutting(url) as line, AsyncClient(line.url, key=OWNER, timeout_s=WITHIN_S) as cut:
        line.after_bytes = 300
        async with asyncio.timeout(WITHIN_S):
            async for event in cut.follow(job):
                told.append(event)
                line.after_bytes = 250  # of the next connection: hardly more than its headers
                if event.name in ("generating", "token"):
                    steps.release()
        assert line.cuts >= 2
    assert told == await _told(client, job)
    assert [event.id for event in told] == list(range(1, len(told) + 1))


async def test_events_that_come_again_are_not_told_again_and_a_lost_one_is_asked_for(
    client: AsyncClient, gate: Gate, model: Any
) -> None:
    model(Scripted())
    job = (await client.ask(QUESTION)).id
    await client.wait_job(job)
    whole = await _told(client, job)

    async def lines(*ids: int) -> AsyncIterator[str]:
        yield ": alive\n\n"
        for id in ids:
            yield f"id: {id}\r\nevent: {whole[id - 1].name}\r\ndata: {{}}\r\n\r\n"
        if ids[-1] == 4:
            await asyncio.Event().wait()  # whoever waits for more waits for ever

    def said(*ids: int) -> StreamingResponse:
        return StreamingResponse(lines(*ids), media_type="text/event-stream")

    gate.seen.clear()
    gate.answers = [said(1, 1, 2), said(1, 2), said(4)]  # the server would not: a proxy that plays back might
    told = await _told(client, job)
    assert [event.id for event in told] == [event.id for event in whole]
    assert told[2:] == whole[2:]
    assert gate.passed("last-event-id") == [None, "2", "2", "2"]


async def test_refusals_while_it_is_followed(client: AsyncClient, gate: Gate, api: Api) -> None:
    with pytest.raises(NotFound) as unknown:
        await _told(client, "0" * 32)
    assert unknown.value.status == 404
    assert unknown.value.next_step
    job = (await client.ask(QUESTION)).id
    await client.wait_job(job)
    whole = await _told(client, job)
    with pytest.raises(InvalidRequest) as beyond:
        await _told(client, job, after=len(whole) + 1)
    assert beyond.value.field == "Last-Event-ID"
    gate.answers = [problem(EngineUnavailable("Away.", next_step="Wait.", engine="jobs")), PlainTextResponse("?", 502)]
    assert await _told(client, job) == whole
    gate.answers = [PlainTextResponse("hello")]
    with pytest.raises(NotUnderstood):
        await _told(client, job)
    await api.system.jobs.store.upkeep(events_s=-3600.0, jobs_s=1e6)
    with pytest.raises(Gone):
        await _told(client, job)
    assert (await client.wait_job(job)).text


async def test_a_server_that_is_gone_midway_is_said_after_its_time(api: Api, model: Any) -> None:
    steps = asyncio.Semaphore(0)
    model(Scripted(steps=steps))
    async with on_a_socket(api.app) as url, AsyncExitStack() as line_stands:
        line = await line_stands.enter_async_context(Cutting(url))
        client = await line_stands.enter_async_context(AsyncClient(line.url, key=OWNER, timeout_s=0.5, tries=2))
        job = (await client.with_timeout(WITHIN_S).ask(QUESTION)).id
        events = await line_stands.enter_async_context(aclosing(client.follow(job)))
        assert (await anext(events)).name == "queued"
        await line.aclose()
        with pytest.raises((NotReachable, TimedOut)) as gone:
            [event async for event in events]
        assert gone.value.next_step
        with pytest.raises(NotReachable) as refused:
            await client.search(QUESTION)
        assert not refused.value.sent
    await api.call("DELETE", f"/v1/jobs/{job}")


def connections(client: AsyncClient) -> int:
    return sum(not one.is_idle() for one in client._transport._http._transport._pool.connections)  # type: ignore[attr-defined]


async def test_a_stream_that_is_left_or_cancelled_closes_its_connection(api: Api, url: str, model: Any) -> None:
    model(Scripted(steps=asyncio.Semaphore(0)))
    async with Cutting(url) as line, AsyncClient(line.url, key=OWNER, timeout_s=WITHIN_S) as client:
        job = (await client.ask(QUESTION)).id
        async with aclosing(client.follow(job)) as events:
            assert (await anext(events)).name == "queued"
            assert connections(client)
        assert connections(client) == 0  # at once, not when somebody comes by to collect it
        waiting = asyncio.create_task(client.wait_job(job))
        async with asyncio.timeout(WITHIN_S):
            while not api.system.job_watching._followed:
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            while api.system.job_watching._followed:
                await asyncio.sleep(0.01)
        with pytest.raises(TimedOut):
            await client.wait_job(job, timeout_s=0.01)
        assert (await client.cancel_job(job)).error is not None
        with pytest.raises(JobFailed) as failed:
            await client.wait_job(job)
        assert failed.value.reason == "cancelled"


async def test_a_failed_job_is_begun_again_and_all_its_events_are_told(client: AsyncClient, model: Any) -> None:
    model(Scripted(steps=asyncio.Semaphore(0)))
    job = (await client.ask(QUESTION)).id
    await client.cancel_job(job)
    model(Scripted())
    assert (await client.retry_job(job)).id == job
    assert (await client.wait_job(job)).citations == (1,)
    names = [event.name for event in await _told(client, job)]
    assert (names.count("failed"), names.count("queued"), names[-1]) == (1, 2, "done")
    assert await anext(client.jobs(state="done")) == replace(await client.job(job), answer=None)


async def test_an_answer_as_it_comes_about(client: AsyncClient) -> None:
    events = [event async for event in client.stream_answer(QUESTION)]
    assert isinstance(events[0], Found)
    assert events[0].passages[0].uri == "returns.md"
    last = events[-1]
    assert isinstance(last, Answer)
    assert "".join(event.text for event in events if isinstance(event, Token)) == last.text
    assert last.text == (await client.answer(QUESTION)).text


async def test_an_answer_that_breaks_off_is_no_answer(client: AsyncClient, gate: Gate, url: str) -> None:
    async with Cutting(url) as line, AsyncClient(line.url, key=OWNER, timeout_s=WITHIN_S) as cut:
        line.after_bytes = 900
        with pytest.raises(NotReachable) as broken:
            [event async for event in cut.stream_answer(QUESTION)]
        assert broken.value.sent
        assert (line.cuts, line.taken) == (1, 1)
    told = 'event: error\ndata: {"type": "about:blank#EngineTimeout", "status": 504, "detail": "Late.", "next_step": "Wait."}\n\n'
    gate.answers = [StreamingResponse(iter([told]), media_type="text/event-stream")]
    with pytest.raises(Refused, match="Late") as refused:
        [event async for event in client.stream_answer(QUESTION)]
    assert (refused.value.status, refused.value.code) == (504, "EngineTimeout")
    with pytest.raises(NotFound):
        [event async for event in client.stream_answer(QUESTION, namespace="none")]


async def test_a_client_that_is_closed_or_has_no_good_key(url: str) -> None:
    async with AsyncClient(url, key="rgl_wrong") as client:
        with pytest.raises(Unauthenticated):
            await _told(client, "0" * 32)
    with pytest.raises(Closed):
        await _told(client, "0" * 32)
