"""The blocking client is the asynchronous one on a thread: in threads, inside a running loop, interrupted, left open."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ragline.client import AsyncClient, Client, Closed, NotFound, Token
from tests.api.conftest import OWNER, Api
from tests.client.conftest import WITHIN_S
from tests.client.cutting import Cutting
from tests.job_house import QUESTION, Scripted

ROOT = Path(__file__).resolve().parents[2]


def test_every_method_has_its_counterpart_with_the_same_words() -> None:
    def shown(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert shown(Client) - {"close"} == shown(AsyncClient) - {"aclose"}
    for name in shown(Client) - {"close", "with_timeout"}:
        mine, theirs = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(mine) == inspect.signature(theirs)
        assert mine.__doc__ == theirs.__doc__
        assert inspect.isgeneratorfunction(mine) == inspect.isasyncgenfunction(theirs)


async def test_the_whole_of_it_from_a_thread(url: str, tmp_path: Path) -> None:
    def use() -> None:
        with Client(url, key=OWNER, timeout_s=WITHIN_S) as client:
            path = tmp_path / "hours.md"
            path.write_text("# Opening hours\n\nThe shop opens at nine in the morning.")
            uploaded = client.upload("hours.md", path)
            assert client.wait_live(uploaded, timeout_s=WITHIN_S).state == "indexed"
            found = client.search("When does the shop open?", min_sequence=uploaded.sequence)
            assert found.passages[0].uri == "hours.md"
            job = client.ask(QUESTION)
            events = list(client.follow(job.id))
            assert [event.id for event in events] == list(range(1, len(events) + 1))
            assert events[-1].answer == client.wait_job(job.id)
            told = list(client.stream_answer(QUESTION))
            assert "".join(event.text for event in told if isinstance(event, Token)) == client.answer(QUESTION).text
            assert uploaded.id in [one.id for one in client.documents()]
            assert client.delete_document(uploaded.id).uri == "hours.md"
            with pytest.raises(NotFound):
                client.with_timeout(WITHIN_S).document(uploaded.id)
        with pytest.raises(Closed):
            client.search(QUESTION)
        client.close()

    await asyncio.to_thread(use)


async def test_many_threads_share_one(url: str) -> None:
    def search(n: int) -> str:
        return client.search(QUESTION, top_k=n + 1).passages[0].uri

    def use() -> list[str]:
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(search, range(8)))

    with Client(url, key=OWNER, timeout_s=WITHIN_S) as client:
        assert await asyncio.to_thread(use) == ["returns.md"] * 8


async def test_a_stream_that_is_left_closes_its_connection_and_the_client_goes_on(
    url: str, api: Api, model: Any
) -> None:
    model(Scripted(steps=asyncio.Semaphore(0)))

    def use(line: str) -> str:
        with Client(line, key=OWNER, timeout_s=WITHIN_S) as client:
            job = client.ask(QUESTION).id
            for event in client.follow(job):
                assert event.name == "queued"
                break
            with closing(client.follow(job)) as events:
                next(events)
            client.cancel_job(job)
            return job

    async with Cutting(url) as line:
        await asyncio.to_thread(use, line.url)
        async with asyncio.timeout(WITHIN_S):
            while api.system.job_watching._followed:
                await asyncio.sleep(0.01)


async def test_closed_in_another_thread_while_it_waits(url: str, api: Api, model: Any) -> None:
    model(Scripted(steps=asyncio.Semaphore(0)))
    client = await asyncio.to_thread(Client, url, key=OWNER, timeout_s=WITHIN_S)
    job = (await asyncio.to_thread(client.ask, QUESTION)).id
    waiting = asyncio.create_task(asyncio.to_thread(client.wait_job, job))
    async with asyncio.timeout(WITHIN_S):
        while not api.system.job_watching._followed:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(client.close)
        with pytest.raises(Closed):
            await waiting
        while api.system.job_watching._followed:
            await asyncio.sleep(0.01)
    await api.call("DELETE", f"/v1/jobs/{job}")


async def _program(code: str, url: str, *, interrupt_on: str = "") -> tuple[int, str]:
    """Its exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", code, url, OWNER, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )  # fmt: skip
    said = b""
    assert process.stdout
    async with asyncio.timeout(WITHIN_S):
        while piece := await process.stdout.readline():
            said += piece
            if interrupt_on and piece.decode().strip() == interrupt_on:
                process.send_signal(signal.SIGINT)
        return await process.wait(), said.decode()


async def test_inside_a_running_loop_as_in_a_notebook(url: str) -> None:
    code = f"""
import asyncio, sys
from ragline.client import Client

async def cell():
    with Client(sys.argv[1], key=sys.argv[2]) as client:
        print(client.search({QUESTION!r}).passages[0].uri)

asyncio.run(cell())
"""
    assert await _program(code, url) == (0, "returns.md\n")


async def test_a_program_that_closes_nothing_ends(url: str) -> None:
    code = f"""
import sys
import threading
from ragline.client import Client

client = Client(sys.argv[1], key=sys.argv[2])
events = client.follow(client.ask({QUESTION!r}).id)
print(next(events).name)
"""
    assert await _program(code, url) == (0, "queued\n")


async def test_an_interrupt_ends_the_call_and_the_stream(url: str, api: Api, model: Any) -> None:
    model(Scripted(steps=asyncio.Semaphore(0)))
    code = f"""
import sys
import threading
from ragline.client import Client

with Client(sys.argv[1], key=sys.argv[2]) as client:
    job = client.ask({QUESTION!r}).id
    try:
        for event in client.follow(job):
            print(event.name, flush=True)
    except KeyboardInterrupt:
        print(client.cancel_job(job).error.reason)
"""
    status, said = await _program(code, url, interrupt_on="generating")
    assert (status, said.split()[-2:]) == (0, ["generating", "cancelled"])
    async with asyncio.timeout(WITHIN_S):
        while api.system.job_watching._followed:
            await asyncio.sleep(0.01)


async def test_a_process_that_was_forked_is_told_and_ends(url: str) -> None:
    code = f"""
import os, sys, warnings
from ragline.client import Client, Closed

warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads, and are right
client = Client(sys.argv[1], key=sys.argv[2])
child = os.fork()
try:
    client.search({QUESTION!r})
    print("here", flush=True)
except Closed:
    print("closed", flush=True)
if child:
    os.waitpid(child, 0)
"""
    status, said = await _program(code, url)
    assert (status, sorted(said.split())) == (0, ["closed", "here"])


async def test_collected_in_its_own_thread_it_still_ends(url: str) -> None:
    def use() -> set[str]:
        before = {thread.name for thread in threading.enumerate()}
        client = Client(url, key=OWNER)
        loop = client._loop
        loop._portal.call(loop.close)
        while {thread.name for thread in threading.enumerate()} - before:
            pass
        with pytest.raises(Closed):
            client.search(QUESTION)
        return {thread.name for thread in threading.enumerate()} - before

    assert await asyncio.to_thread(use) == set()
