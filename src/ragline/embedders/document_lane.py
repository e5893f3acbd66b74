"""Texts of all documents in work, waiting for the model: threads take them a call at a time, each call of one length.

No batch, so no end of a batch where one thread waits for another, and no event loop in between: a thread that is done
takes the next call itself. The text that came first goes next, and with it whatever waits of the same length.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from ragline.errors import EngineError, EngineUnavailable
from ragline.priority import lower_priority
from ragline.protocols import Vectors

Encode = Callable[[list[list[int]]], Vectors]


@dataclass(eq=False, slots=True)
class _Request:
    """One caller's texts: answered when `left` of them is 0."""

    future: asyncio.Future[Vectors]
    vectors: Vectors
    left: int


@dataclass(eq=False, slots=True)
class _Text:
    request: _Request
    position: int
    tokens: list[int]
    taken: bool = field(default=False)


class DocumentLane:
    """`threads` threads over one `encode`, which gets texts of one length, at most `tokens_a_call` tokens or one text."""

    def __init__(self, encode: Encode, *, dim: int, threads: int, tokens_a_call: int) -> None:
        self._encode = encode
        self._dim = dim
        self._threads = threads
        self._tokens_a_call = tokens_a_call
        self._pool = ThreadPoolExecutor(threads, "embed-document", initializer=lower_priority)
        self._lock = threading.Lock()  # over all that follows
        self._arrived: deque[_Text] = deque()
        self._of_length: defaultdict[int, deque[_Text]] = defaultdict(deque)
        self._working = 0
        self._closed = False

    async def embed(self, tokens: Sequence[list[int]]) -> Vectors:
        """Shapes: returns float32 (len(tokens), dim), in order. A caller that leaves takes along what was not begun.

        Raises: what `encode` raises, for the callers of that call; EngineUnavailable once the lane is closed.
        """
        vectors = np.empty((len(tokens), self._dim), np.float32)
        if not tokens:
            return vectors
        request = _Request(asyncio.get_running_loop().create_future(), vectors, len(tokens))
        with self._lock:
            if self._closed:
                raise closed()
            for position, one in enumerate(tokens):
                text = _Text(request, position, one)
                self._arrived.append(text)
                self._of_length[len(one)].append(text)
            try:
                for _ in range(min(self._threads - self._working, len(tokens))):
                    self._begin()
            except BaseException:
                request.future.cancel()  # so that its texts are passed over
                raise
        return await request.future

    async def aclose(self) -> None:
        """The calls that run are waited for; who waits beyond them gets an error."""
        with self._lock:
            self._closed = True
            left = {text.request for text in self._arrived if not text.taken}
            self._arrived.clear()
            self._of_length.clear()
        for request in left:
            self._tell(request, closed())
        await asyncio.to_thread(self._pool.shutdown)

    def _begin(self) -> None:
        """One thread more. Called with the lock held."""
        self._working += 1
        try:
            self._pool.submit(self._work)
        except BaseException:
            self._working -= 1
            raise

    def _work(self) -> None:
        """Where it ends in order, `_next` has counted this thread out: under the lock in which it found nothing to do.

        Counted out any later, it would be counted on by a request that comes in between.
        """
        try:
            while call := self._next():
                self._serve(call)
        except BaseException:
            with self._lock:
                self._working -= 1
            raise

    def _serve(self, call: Sequence[_Text]) -> None:
        """Whatever `encode` does, each who waits for this call is told, and the thread goes on."""
        try:
            rows = self._encode([text.tokens for text in call])
            if rows.shape != (len(call), self._dim):
                raise _misshapen(rows.shape, (len(call), self._dim))
            for text, row in zip(call, rows, strict=True):
                text.request.vectors[text.position] = row
        except BaseException as error:  # noqa: BLE001 (raised to those who wait for it)
            told = error if isinstance(error, Exception) else _broken_off(error)
            for request in {text.request for text in call}:
                self._tell(request, told)
            return
        for request in self._finished(call):
            self._tell(request, None)

    def _next(self) -> list[_Text]:
        """The next call; none: this thread's work is over, and the next request starts it again."""
        with self._lock:
            while self._arrived:
                first = self._arrived.popleft()
                if first.taken:
                    continue
                length = len(first.tokens)
                peers = self._of_length[length]  # `first` is the first of them: both are in the order of arrival
                call: list[_Text] = []
                while peers and (not call or (len(call) + 1) * length <= self._tokens_a_call):
                    text = peers.popleft()
                    text.taken = True
                    if not text.request.future.done():
                        call.append(text)
                if not peers:
                    del self._of_length[length]
                if call:
                    return call
            self._working -= 1
            return []

    def _finished(self, call: Sequence[_Text]) -> list[_Request]:
        finished = []
        with self._lock:
            for text in call:
                text.request.left -= 1
                if not text.request.left:
                    finished.append(text.request)
        return finished

    def _tell(self, request: _Request, error: Exception | None) -> None:
        def settle() -> None:
            if request.future.done():
                return
            if error is None:
                request.future.set_result(request.vectors)
            else:
                request.future.set_exception(error)

        with suppress(RuntimeError):  # its loop is closed: nobody waits any more
            request.future.get_loop().call_soon_threadsafe(settle)


def _misshapen(shape: tuple[int, ...], expected: tuple[int, ...]) -> EngineError:
    return EngineError(
        f"The embedder gave vectors of shape {shape}, not {expected}.",
        next_step="Retry; if it stays so, the model is not the one that the space names.",
        engine="embedder:local",
    )


def _broken_off(error: BaseException) -> EngineError:
    return EngineError(
        f"The embedder was broken off: {type(error).__name__} {error}".rstrip(),
        next_step="Retry.",
        engine="embedder:local",
    )


def closed() -> EngineUnavailable:
    return EngineUnavailable("The embedder is closed.", next_step="Send the request again.", engine="embedder:local")
