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
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from anyio.from_thread import start_blocking_portal

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
        return self._run(functools.partial(method, self._far, *args, **kwargs))

    return call


def _blocking_stream(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        events = method(self._far, *args, **kwargs)
        turn = asyncio.Lock()  # a step that was interrupted ends before the stream is closed

        async def step() -> T | object:
            async with turn:
                return await anext(events, END)

        async def close() -> None:
            async with turn:
                await events.aclose()

        try:
            while (event := self._run(step)) is not END:
                yield event  # type: ignore[misc]
        finally:
            with contextlib.suppress(Closed):  # then it is closed already
                self._run(close)

    return call


class Client:
    """`AsyncClient` for code without an event loop. It may be used by any number of threads. Every method raises ClientError.

    What is a stream there is a generator here: leave it by closing it, or by the end of the loop over it.
    """

    def __init__(
        self, *urls: str, key: str | None = None, timeout_s: float = 60.0, tries: int = 4, tls: ssl.SSLContext | None = None
    ) -> None:  # fmt: skip
        """As of `AsyncClient`. Raises ValueError."""
        self._far = AsyncClient(*urls, key=key, timeout_s=timeout_s, tries=tries, tls=tls)
        self._thread = contextlib.ExitStack()
        self._portal = self._thread.enter_context(start_blocking_portal("asyncio"))

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
        with contextlib.suppress(Closed):
            self._run(self._far.aclose)
            self._run(functools.partial(self._portal.stop, True))
        self._thread.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
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
