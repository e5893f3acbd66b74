"""The same client for code without an event loop.

There is one implementation, the asynchronous one; here it runs on an event loop in a thread of its own (anyio's portal), and
each method is made of its counterpart, with its signature. Two implementations would drift apart just where it matters: in
what is repeated, and what goes on after a cut.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import copy
import functools
import os
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from anyio.from_thread import BlockingPortal

from ragline.client.asynchronous import AsyncClient
from ragline.client.errors import Closed

P = ParamSpec("P")
T = TypeVar("T")

END: Final = object()


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._loop.run(functools.partial(method, self._far, *args, **kwargs))

    return call


def _blocking_stream(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        events = method(self._far, *args, **kwargs)
        turn, steps = asyncio.Lock(), set[asyncio.Task[Any]]()

        async def step() -> T | object:
            if task := asyncio.current_task():
                steps.add(task)
                task.add_done_callback(steps.discard)
            async with turn:
                return await anext(events, END)

        async def close() -> None:
            for task in steps:  # an interrupt may have come where nobody knew of it yet
                task.cancel()
            async with turn:
                await events.aclose()

        try:
            while (event := self._loop.run(step)) is not END:
                yield event  # type: ignore[misc]
        finally:
            with contextlib.suppress(Closed):  # then it is closed already
                self._loop.run(close)

    return call


class _Loop:
    """An event loop in a thread of its own. It ends with whoever holds it, at the latest with the program."""

    def __init__(self, client: AsyncClient) -> None:
        started: concurrent.futures.Future[BlockingPortal] = concurrent.futures.Future()
        thread = threading.Thread(target=_serve, args=(started,), name="ragline-client", daemon=True)
        thread.start()
        self._portal = started.result()
        self._process = os.getpid()
        self.close = weakref.finalize(self, _end, self._portal, thread, self._process, client)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if os.getpid() != self._process:  # a thread is not forked along
            raise Closed
        try:
            under_way: concurrent.futures.Future[T] = self._portal.start_task_soon(work)
        except RuntimeError as error:
            raise Closed from error
        try:
            return under_way.result()
        except concurrent.futures.CancelledError as error:  # by `close`, in another thread
            raise Closed from error
        except BaseException:  # a KeyboardInterrupt, here: what nobody waits for any more ends
            under_way.cancel()
            raise


def _serve(started: concurrent.futures.Future[BlockingPortal]) -> None:
    """anyio's `start_blocking_portal`, but for its end: that is bound to a generator, whose collection may wait for ever."""

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        asyncio.run(serve())
    except Exception as error:
        if started.done():
            raise
        started.set_exception(error)


def _end(portal: BlockingPortal, thread: threading.Thread, process: int, client: AsyncClient) -> None:
    if os.getpid() != process:
        return
    if threading.current_thread() is thread:  # the garbage collector came by here, and a thread cannot wait for itself
        threading.Thread(target=_end, args=(portal, thread, process, client)).start()
        return
    portal.call(client.aclose)
    portal.call(portal.stop, True)
    thread.join()


class Client:
    """`AsyncClient` for code without an event loop. It may be used by any number of threads. Every method raises ClientError.

    What is a stream there is a generator here: leave it by closing it, or by the end of the loop over it.
    """

    def __init__(
        self, *urls: str, key: str | None = None, timeout_s: float = 60.0, tries: int = 4, tls: ssl.SSLContext | None = None
    ) -> None:  # fmt: skip
        """As of `AsyncClient`. Raises ValueError."""
        self._far = AsyncClient(*urls, key=key, timeout_s=timeout_s, tries=tries, tls=tls)
        self._loop = _Loop(self._far)

    search = _blocking(AsyncClient.search)
    answer = _blocking(AsyncClient.answer)
    stream_answer = _blocking_stream(AsyncClient.stream_answer)
    ask = _blocking(AsyncClient.ask)
    follow = _blocking_stream(AsyncClient.follow)
    wait_job = _blocking(AsyncClient.wait_job)
    job = _blocking(AsyncClient.job)
    jobs = _blocking_stream(AsyncClient.jobs)
    cancel_job = _blocking(AsyncClient.cancel_job)
    retry_job = _blocking(AsyncClient.retry_job)
    upload = _blocking(AsyncClient.upload)
    wait_live = _blocking(AsyncClient.wait_live)
    document = _blocking(AsyncClient.document)
    documents = _blocking_stream(AsyncClient.documents)
    delete_document = _blocking(AsyncClient.delete_document)
    namespaces = _blocking(AsyncClient.namespaces)
    namespace = _blocking(AsyncClient.namespace)
    put_namespace = _blocking(AsyncClient.put_namespace)
    delete_namespace = _blocking(AsyncClient.delete_namespace)

    def with_timeout(self, timeout_s: float) -> Client:
        """The same client, on the same connections, with another time for each call. Closing one closes both."""
        other = copy.copy(self)
        other._far = self._far.with_timeout(timeout_s)
        return other

    def close(self) -> None:
        """End what is under way, in other threads too; calls after it raise Closed."""
        self._loop.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
