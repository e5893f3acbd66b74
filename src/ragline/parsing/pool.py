"""A warm pool of child processes that parse: one document's crash, hang or hunger costs that document alone.

The ingest path's parse stage calls `ParserPool.parse`. A child is started when a document finds none idle, then kept;
one that died, hung, or was cut short by a cancelled caller is killed, and the next document gets a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from ragline import metrics
from ragline.errors import DocumentRejected, EngineUnavailable, Reason
from ragline.parsing import frames
from ragline.parsing.frames import Rejection, Request, SlowLane
from ragline.parsing.limits import Limits
from ragline.types import Parsed

START_TIMEOUT_S: Final = 60.0
"""A child is up in 0.1 s; this is for a machine on its knees."""

WRITE_BYTES: Final = 256 << 10
"""A slice of a document written at once: more would only be copied into the transport's buffer."""

OFFLOAD_BYTES: Final = 256 << 10
"""A larger reply is unpacked in a thread: below, the hop costs more than it saves the event loop."""

_PASSED_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""All that a child gets of our environment: hostile documents are read there, and the rest holds secrets."""


class _ChildDied(Exception):
    """The pipe ended before the reply did."""


class _Killed(Exception):
    """Somebody else ended the child."""


class ParserPool:
    """`protocols.Parser` over at most `processes` children (0: one per core).

    A document whose child is killed from outside is parsed once more: it may be innocent, the system being short of memory.
    A document that needs a slow program (OCR, LibreOffice) is sent again in a lane of its own, `slow_processes` at a time,
    so that no other waits for it. The bytes of a document are read when it is its turn, and again in that lane: in memory
    are those of as many documents as are being parsed, however many wait.

    Units:   `timeout_s` for one document from the moment a child has it.
    scratch: folder for what those programs write; its contents are removed when the pool is made.
    Formats: name of the module that holds the table of formats.
    """

    def __init__(
        self,
        *,
        processes: int,
        timeout_s: float,
        limits: Limits,
        slow_processes: int = 1,
        scratch: Path | None = None,
        formats: str = "ragline.parsing.formats",
    ) -> None:
        self._slots = asyncio.Semaphore(processes or _cores())
        self._slow = asyncio.Semaphore(slow_processes)
        self._timeout_s = timeout_s
        self._limits = limits
        self._scratch = scratch or Path(tempfile.gettempdir()) / f"ragline-{secrets.token_hex(8)}"
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._formats = formats
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._burials: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def parse(self, read: Callable[[], Awaitable[bytes]], *, name: str, media_type: str | None) -> Parsed:
        """Raises DocumentRejected; EngineUnavailable when no child can be started, which is no document's fault."""
        request = Request(name, media_type, self._limits)
        reply = await self._ask(request, read, self._slots, self._timeout_s, "parse_timeout_s")
        if isinstance(reply, SlowLane):
            request = replace(request, slow=True)
            timeout_s = self._timeout_s + self._limits.tools.timeout_s
            reply = await self._ask(request, read, self._slow, timeout_s, "tool_timeout_s")
        if isinstance(reply, Rejection):
            raise DocumentRejected(Reason(reply.reason), reply.message, next_step=reply.next_step)
        if isinstance(reply, SlowLane):
            raise RuntimeError("a parser asked for the slow lane in it")
        return reply

    async def _ask(
        self, request: Request, read: Callable[[], Awaitable[bytes]], slots: asyncio.Semaphore, timeout_s: float,
        setting: str,
    ) -> Parsed | Rejection | SlowLane:  # fmt: skip
        async with slots:
            data = await read()  # no child is held meanwhile, and `timeout_s` has not begun
            try:
                return await self._ask_child(request, data, timeout_s, setting)
            except _Killed:
                try:
                    return await self._ask_child(request, data, timeout_s, setting)
                except _Killed:
                    raise DocumentRejected(
                        Reason.MEMORY,
                        "The system ended the parser twice while it read the document, most likely for want of memory.",
                        next_step="Split it, or give the service more memory.",
                    ) from None

    async def _ask_child(
        self, request: Request, data: bytes, timeout_s: float, setting: str
    ) -> Parsed | Rejection | SlowLane:
        child = await self._take()
        keep, start = False, time.perf_counter()
        try:
            async with asyncio.timeout(timeout_s):
                reply, last = await child.ask(request, data)
            keep = not last
        except TimeoutError:
            raise DocumentRejected(
                Reason.TIMEOUT,
                f"Parsing the document took longer than {timeout_s:g} s.",
                next_step=f"Split it, or raise RAGLINE_INGEST__{setting.upper()}.",
            ) from None
        except _ChildDied:
            raise await self._post_mortem(child) from None
        finally:
            metrics.ingest_latency_ms.labels("parser").observe((time.perf_counter() - start) * 1000)
            if keep and not self._closing.is_set():
                self._idle.append(child)
            else:
                self._bury(child)
        return reply

    async def warm(self) -> None:
        """Have one child ready, so that the first document does not wait for it."""
        async with self._slots:
            self._idle.append(await self._take())

    async def aclose(self) -> None:
        """End every child. Documents in work end in EngineUnavailable: they are to be parsed again elsewhere."""
        self._closing.set()
        for child in list(self._all):
            self._bury(child)
        self._idle.clear()
        while self._burials:
            await asyncio.gather(*self._burials)
        with contextlib.suppress(OSError):  # never made, or not empty, or gone by an earlier call
            self._scratch.rmdir()

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the living children."""
        return frozenset(child.pid for child in self._all)

    async def _take(self) -> _Child:
        while self._idle and not self._closing.is_set():
            child = self._idle.pop()
            if child.alive:
                return child
            self._bury(child)  # something outside ended it while it was idle
        if self._closing.is_set():
            raise _unavailable("The parser is shutting down.")
        child = await _Child.start(self._formats, self._scratch)
        self._all.add(child)
        if self._closing.is_set():  # closed while it started
            self._bury(child)
            raise _unavailable("The parser is shutting down.")
        return child

    async def _post_mortem(self, child: _Child) -> Exception:
        code = await child.end()
        if self._closing.is_set():
            return _unavailable("The parser is shutting down.")
        if code == -signal.SIGKILL:  # we kill only after a timeout or a cancellation, and do not ask then
            return _Killed()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return DocumentRejected(
            Reason.CRASHED,
            f"The parser crashed on the document ({how}).",
            next_step="Save it again with the program that made it, or convert it, and upload that copy.",
        )

    def _bury(self, child: _Child) -> None:
        """Kill now, without waiting, so that a cancelled caller leaves nothing behind; reap in the background."""
        child.kill()
        if child in self._all:
            self._all.discard(child)
            burial = asyncio.get_running_loop().create_task(child.bury())
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)


class _Child:
    """A process and its two pipes."""

    def __init__(self, process: Process, scratch: Path) -> None:
        self._ready = False
        self._scratch = scratch
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._requests = process.stdin
        self._replies = process.stdout

    @classmethod
    async def start(cls, formats: str, folder: Path) -> _Child:
        environment = {key: os.environ[key] for key in _PASSED_ENVIRONMENT if key in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        # A session of its own: Ctrl-C in the terminal is for us alone. -P: no file in this folder shadows a module.
        scratch = folder / secrets.token_hex(8)
        command = (sys.executable, "-P", "-m", "ragline.parsing.child", formats, str(scratch))
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True, env=environment
            )
        except OSError as error:
            raise _unavailable(f"A parser process could not be started: {error.strerror}.") from error
        child = cls(process, scratch)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await child._read()
        except (_ChildDied, TimeoutError) as error:
            raise _unavailable("A parser process ended before it was ready.") from error
        finally:
            if not child._ready:
                child.kill()
                await asyncio.shield(child.bury())
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and not self._replies.at_eof()

    async def ask(self, request: Request, data: bytes) -> tuple[Parsed | Rejection | SlowLane, bool]:
        """Send a document and read the answer. Raises _ChildDied."""
        with memoryview(data) as view:
            try:
                self._requests.write(frames.pack_request(request, len(data)))
                for start in range(0, len(data), WRITE_BYTES):
                    self._requests.write(view[start : start + WRITE_BYTES])
                    await self._requests.drain()
            except (BrokenPipeError, ConnectionResetError) as error:
                raise _ChildDied from error
        limits = request.limits
        head, body = await self._read(max_body_bytes=4 * limits.max_text_chars + limits.max_members_bytes)
        try:
            if len(head) + len(body) > OFFLOAD_BYTES:
                return await asyncio.to_thread(frames.unpack_reply, head, body)
            return frames.unpack_reply(head, body)
        except (ValueError, KeyError, TypeError) as error:
            raise _ChildDied from error

    async def _read(self, *, max_body_bytes: int = 0) -> tuple[bytes, bytes]:
        try:
            lengths = await self._replies.readexactly(frames.LENGTHS.size)
            head_bytes, body_bytes = frames.LENGTHS.unpack(lengths)
            if head_bytes > frames.MAX_HEAD_BYTES or body_bytes > max_body_bytes:
                raise _ChildDied
            frame = await self._replies.readexactly(head_bytes), await self._replies.readexactly(body_bytes)
        except (asyncio.IncompleteReadError, ConnectionResetError) as error:
            raise _ChildDied from error
        self._ready = True
        return frame

    def kill(self) -> None:
        """End the child, and with it whatever program it has called: they share a session, so a group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> int:
        """The exit code of a child that has closed its pipe; one that then lingers is ended by SIGABRT's number."""
        self._requests.close()
        try:
            async with asyncio.timeout(5.0):
                return await self._process.wait()
        except TimeoutError:
            return -signal.SIGABRT

    async def bury(self) -> None:
        """Wait for the end of a killed child and let go of its pipes."""
        self._requests.close()
        await self._process.wait()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._requests.wait_closed()
        if self._scratch.exists():
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _unavailable(message: str) -> EngineUnavailable:
    return EngineUnavailable(message, next_step="Try again; if it stays, look at the service's log.", engine="parser")
