"""The pool: one document's misfortune is its own."""

from __future__ import annotations

import asyncio
import os
import platform
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ragline.errors import DocumentRejected, EngineUnavailable, NotFound, Reason
from ragline.parsing.limits import Limits
from ragline.parsing.pool import ParserPool
from ragline.protocols import Parser
from ragline.types import Member
from tests.reading import Counted, at_hand


@pytest.fixture
async def hostile(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ParserPool]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pool = _pool()
    yield pool
    await pool.aclose()


def _pool(*, processes: int = 1, timeout_s: float = 60.0) -> ParserPool:
    return ParserPool(
        processes=processes,
        timeout_s=timeout_s,
        limits=Limits(memory_bytes=256 << 20, max_text_chars=100_000),
        formats="hostile_formats",
    )


async def _parse(pool: Parser, words: str) -> str:
    return (await pool.parse(at_hand(words.encode()), name="a.txt", media_type=None)).text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("abort", Reason.CRASHED),
        ("exit", Reason.CRASHED),
        ("raise", Reason.CRASHED),
        ("killed", Reason.MEMORY),
        pytest.param("hunger", Reason.MEMORY, marks=pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")),
        ("flood", Reason.TOO_LARGE),
    ],
)
async def test_the_failing_document_alone_fails(hostile: ParserPool, words: str, reason: Reason) -> None:
    with pytest.raises(DocumentRejected) as caught:
        await _parse(hostile, words)
    assert caught.value.reason is reason
    assert caught.value.next_step
    assert "secret" not in str(caught.value)
    assert await _parse(hostile, "fine") == "fine"


async def test_a_hanging_document_is_killed_at_its_limit(hostile: ParserPool) -> None:
    await hostile.warm()
    (before,) = hostile.pids
    hostile._timeout_s = 0.2
    with pytest.raises(DocumentRejected) as caught:
        await _parse(hostile, "hang")
    assert caught.value.reason is Reason.TIMEOUT
    hostile._timeout_s = 60.0
    assert await _parse(hostile, "fine") == "fine"
    assert before not in hostile.pids


async def test_what_a_library_prints_breaks_no_frame(hostile: ParserPool) -> None:
    assert await _parse(hostile, "print") == "quiet"
    (before,) = hostile.pids
    assert await _parse(hostile, "fine") == "fine"
    assert hostile.pids == {before}


async def test_a_child_sees_no_secrets(hostile: ParserPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGLINE_SECRET", "hush")
    assert "RAGLINE_SECRET" not in await _parse(hostile, "environment")


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="seccomp, where we know the calls",
)
async def test_a_child_makes_no_socket_but_local_ones(hostile: ParserPool) -> None:
    assert await _parse(hostile, "network") == "refused refused made"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
async def test_a_program_runs_inside_limits_of_its_own(hostile: ParserPool) -> None:
    tools = hostile._limits.tools
    assert await _parse(hostile, "program") == f"{tools.memory_bytes} {1 << 30}"


async def test_members_come_back_byte_for_byte_and_their_names_lead_nowhere(hostile: ParserPool) -> None:
    parsed = await hostile.parse(at_hand(b"members"), name="a.txt", media_type=None)
    assert parsed.members == (Member("one.bin", bytes(range(256)) * 1000), Member("two.txt", b""))
    assert parsed.left_out == ("three: too heavy",)


async def test_what_takes_long_waits_in_a_lane_of_its_own(hostile: ParserPool) -> None:
    assert await _parse(hostile, "slow") == "slowly"
    async with hostile._slow:  # something slow is in work
        waiting = asyncio.create_task(_parse(hostile, "slow"))
        assert [await _parse(hostile, "fine") for _ in range(3)] == ["fine"] * 3
        assert not waiting.done()
    assert await waiting == "slowly"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_program_that_hangs_ends_with_its_child_and_leaves_no_file(hostile: ParserPool, tmp_path: Path) -> None:
    hostile._scratch = tmp_path
    task = asyncio.create_task(_parse(hostile, "slow program that hangs"))
    async with asyncio.timeout(60):
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.01)
        child = int((tmp_path / "started").read_text())
        while not (programs := _children(child)):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while any(map(_runs, programs)):
            await asyncio.sleep(0.01)
        await hostile.aclose()
    assert {entry.name for entry in os.scandir(tmp_path)} == {"started"}


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


async def test_a_program_over_its_time_fails_its_document_alone(hostile: ParserPool, tmp_path: Path) -> None:
    hostile._scratch, tools = tmp_path, replace(hostile._limits.tools, timeout_s=0.2)
    hostile._limits = replace(hostile._limits, tools=tools)
    with pytest.raises(DocumentRejected) as caught:
        await _parse(hostile, "slow program that hangs")
    assert caught.value.reason is Reason.TIMEOUT
    assert "TOOL_TIMEOUT_S" in caught.value.next_step
    assert await _parse(hostile, "fine") == "fine"


async def test_cancelling_ends_the_child_and_frees_its_place(hostile: ParserPool) -> None:
    await hostile.warm()
    (before,) = hostile.pids
    task = asyncio.create_task(_parse(hostile, "hang"))
    while hostile._idle:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert before not in hostile.pids
    assert await _parse(hostile, "fine") == "fine"


async def test_a_child_that_died_while_idle_costs_nothing(hostile: ParserPool) -> None:
    await hostile.warm()
    (before,) = hostile.pids
    os.kill(before, signal.SIGKILL)
    await next(iter(hostile._all))._process.wait()
    assert await _parse(hostile, "fine") == "fine"
    assert before not in hostile.pids


async def test_a_document_whose_child_was_killed_by_chance_is_parsed_once_more(
    hostile: ParserPool, tmp_path: Path
) -> None:
    assert await _parse(hostile, f"killed once {tmp_path / 'begun'}") == "fine"


async def test_children_serve_at_the_same_time_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pool = _pool(processes=2)
    try:
        words = [f"words {i}" for i in range(20)]
        assert await asyncio.gather(*(_parse(pool, w) for w in words)) == words
        assert 1 <= len(pool.pids) <= 2
        before = pool.pids
        assert await asyncio.gather(*(_parse(pool, w) for w in words)) == words
        assert pool.pids >= before
    finally:
        await pool.aclose()


async def test_only_documents_that_are_parsed_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pool, counted = _pool(processes=2), Counted()

    async def parse(words: str) -> str:
        async def read() -> bytes:
            data = counted(words.encode())
            await asyncio.sleep(0)
            return data

        return (await pool.parse(read, name="a.txt", media_type=None)).text

    words = ["slow" if i % 10 == 0 else f"words {i}" for i in range(60)]
    try:
        assert await asyncio.gather(*map(parse, words)) == ["slowly" if one == "slow" else one for one in words]
    finally:
        await pool.aclose()
    assert counted.ever == 60 + 6  # what takes long is read again in its lane
    assert 2 <= counted.most <= 3
    assert counted.now == 0


async def test_bytes_that_cannot_be_read_cost_no_child(hostile: ParserPool) -> None:
    await hostile.warm()
    before = hostile.pids

    async def read() -> bytes:
        raise NotFound("The bytes are gone.", next_step="Upload them again.")

    with pytest.raises(NotFound):
        await hostile.parse(read, name="a.txt", media_type=None)
    assert await _parse(hostile, "fine") == "fine"
    assert hostile.pids == before


async def test_closing_blames_no_document(hostile: ParserPool) -> None:
    await hostile.warm()
    task = asyncio.create_task(_parse(hostile, "hang"))
    while hostile._idle:
        await asyncio.sleep(0)
    await hostile.aclose()
    with pytest.raises(EngineUnavailable):
        await task
    with pytest.raises(EngineUnavailable):
        await _parse(hostile, "fine")
    await hostile.aclose()
    assert not hostile.pids


async def test_a_child_that_cannot_start_is_no_documents_fault() -> None:
    pool = ParserPool(processes=1, timeout_s=60, limits=Limits(), formats="no_such_module")
    with pytest.raises(EngineUnavailable):
        await _parse(pool, "fine")
    await pool.aclose()


async def test_a_large_document_goes_there_and_back(hostile: ParserPool) -> None:
    pool = ParserPool(processes=1, timeout_s=60, limits=Limits())
    text = "\n".join(f"line {i} of many, with a word in Greek: λόγος" for i in range(50_000))
    try:
        assert (await pool.parse(at_hand(text.encode()), name="a.txt", media_type=None)).text == text
    finally:
        await pool.aclose()


_PARENT = """
import asyncio, sys
from ragline.parsing.limits import Limits
from ragline.parsing.pool import ParserPool
from ragline.protocols import Parser
from tests.reading import at_hand

async def main():
    pool = ParserPool(processes=1, timeout_s=60, limits=Limits(), formats="hostile_formats")
    await pool.warm()
    task = asyncio.create_task(pool.parse(at_hand(b"hang"), name="a.txt", media_type=None))
    print(*pool.pids, flush=True)
    await task

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a hanging child notices its parent's end on Linux only")
def test_children_end_with_their_parent() -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        child = int(parent.stdout.readline())
        descriptor = os.pidfd_open(child)
        parent.kill()
    try:
        ended, _, _ = select.select([descriptor], [], [], 60)
        assert ended
    finally:
        os.close(descriptor)
