"""Calls on their way to a server and back: replicas, retries, deadlines, errors translated. Only this file knows httpx."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx

from ragline import __version__
from ragline.client.errors import ClientError, Closed, NotReachable, NotUnderstood, Refused, TimedOut, refused
from ragline.client.retrying import may_repeat, pause_s
from ragline.client.sse import Frame, Frames

T = TypeVar("T")

CONNECT_S = 5.0
"""For one connection to come about; a replica that takes longer is left for the next."""

BEATS_S = 45.0
"""A stream of a job is told every 15 s that it lives: after three beats of silence it does not."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


@dataclass(frozen=True, slots=True)
class File:
    """What an upload carries; a path is read while it is sent, and anew for each try."""

    content: bytes | Path
    media_type: str
    form: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """A request. `path` is joined by slashes, each part quoted; of `params` and `body`, what is None is left out.

    repeatable: whether it does no harm when it was done already.
    """

    method: str
    path: tuple[str, ...]
    repeatable: bool
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    file: File | None = None


class Stream:
    """The events of an answer as they come. `over`: there are none any more, and never will be.

    No generator: an event loop that ends closes all of them at once, and one inside another is then closed twice.
    """

    def __init__(self, response: httpx.Response, base: str) -> None:
        self.over = response.status_code == 204
        self._response = response
        self._base = base
        self._pieces = response.aiter_bytes()
        self._frames = Frames()
        self._told: deque[Frame] = deque()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Frame:
        """Raises NotReachable: it was cut, or is silent.  NotUnderstood."""
        while not self._told:
            try:
                piece = await anext(self._pieces)
            except httpx.HTTPError as error:
                raise _silent(error, self._base) from error
            with understood():
                self._told.extend(self._frames.feed(piece))
        return self._told.popleft()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._response.aclose()


class Transport:
    """`urls`: replicas of one service. One is used until it fails, then the next."""

    def __init__(self, urls: Sequence[str], *, key: str | None, tries: int, tls: ssl.SSLContext | None) -> None:
        """Raises ValueError."""
        self._bases = [_checked(url) for url in urls]
        if not self._bases or tries < 1:
            raise ValueError("A client needs one URL at least, such as http://127.0.0.1:8080, and one try.")
        if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("key is no API key: it holds blanks or control characters. Give it as it was shown.")
        headers = {"User-Agent": f"ragline-client/{__version__}", **({"Authorization": f"Bearer {key}"} if key else {})}
        near = all(httpx.URL(base).host in LOOPBACK for base in self._bases)
        self._http = httpx.AsyncClient(
            headers=headers, timeout=httpx.Timeout(None, connect=CONNECT_S), trust_env=not near, verify=tls or True,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),  # each open stream holds one
        )  # fmt: skip
        self.tries = tries
        self._dice = Random()
        self._at = 0

    async def aclose(self) -> None:
        await self._http.aclose()

    async def send(self, call: Call, read: Callable[[Any], T], *, deadline: float) -> T:
        """What `read` makes of the JSON of the answer. Raises ClientError; OSError: a file cannot be read."""
        response = await self._answered(call, deadline=deadline, tries=self.tries, silence_s=None)
        with understood():
            return read(response.json())

    async def open(
        self, call: Call, *, deadline: float, tries: int | None = None, silence_s: float = BEATS_S
    ) -> Stream:  # fmt: skip
        """A stream, to be closed by who gets it. `deadline` and `tries` (None: any number) bound its beginning; it counts as cut
        when it is silent for `silence_s`. Raises ClientError."""
        response = await self._answered(call, deadline=deadline, tries=tries, silence_s=silence_s)
        if response.status_code != 204 and not response.headers.get("content-type", "").startswith("text/event-stream"):
            await response.aclose()
            raise _stranger(response)
        return Stream(response, self._bases[self._at])

    def pause_s(self, failed: int) -> float:
        return pause_s(failed, None, self._dice)

    def next_replica(self) -> None:
        self._at = (self._at + 1) % len(self._bases)

    # ── one call ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _answered(
        self, call: Call, *, deadline: float, tries: int | None, silence_s: float | None
    ) -> httpx.Response:  # fmt: skip
        """The answer of the first try that succeeded; with `silence_s` its body is not read yet."""
        if self._http.is_closed:
            raise Closed
        loop, failed, request_id = asyncio.get_running_loop(), 0, uuid4().hex
        last: ClientError | None = None
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._try(call, request_id, silence_s)
            except (Refused, NotReachable) as error:
                last, failed = error, failed + 1
            except TimeoutError as error:
                raise _timed_out(call, last) from error
            after_s = last.retry_after_s if isinstance(last, Refused) else None
            other = isinstance(last, NotReachable) and failed < len(self._bases)  # a replica that was not asked yet
            wait_s = 0.0 if other else pause_s(failed, after_s, self._dice)
            if failed == tries or not may_repeat(last, repeatable=call.repeatable) or loop.time() + wait_s >= deadline:
                raise last
            self.next_replica()
            await asyncio.sleep(wait_s)

    async def _try(self, call: Call, request_id: str, silence_s: float | None) -> httpx.Response:
        base = self._bases[self._at]
        with ExitStack() as files:
            given: dict[str, Any] = {}
            if call.file is not None:
                content = call.file.content
                opened = files.enter_context(content.open("rb")) if isinstance(content, Path) else content
                # The name of the part is nobody's: `uri` is a field of its own, in any script.
                given = {"data": call.file.form, "files": [("file", ("0", opened, call.file.media_type))]}
            elif call.body is not None:
                given = {"json": {name: value for name, value in call.body.items() if value is not None}}
            request = self._http.build_request(
                call.method, base + _path(call.path),
                params={name: value for name, value in call.params.items() if value is not None} or None,
                headers={**call.headers, "X-Request-Id": request_id},
                timeout=httpx.Timeout(None, connect=CONNECT_S, read=silence_s), **given,
            )  # fmt: skip
            try:
                response = await self._http.send(request, stream=True)
                if silence_s is None or response.status_code >= 300:
                    try:
                        await response.aread()
                    finally:
                        await response.aclose()
            except httpx.HTTPError as error:
                raise _silent(error, base) from error
        if response.status_code >= 300:
            raise _refused(response, request_id)
        return response


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _refused(response: httpx.Response, request_id: str) -> ClientError:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    after = response.headers.get("retry-after", "")
    retry_after_s = float(after) if after.isascii() and after.isdigit() else None
    request_id = response.headers.get("x-request-id", request_id)
    if not isinstance(problem, dict) or "detail" not in problem:
        if response.status_code in (429, 502, 503, 504):  # a proxy before the server, in words of its own
            problem = {
                "detail": f"{response.url.host} answered {response.status_code} {response.reason_phrase}.",
                "next_step": "Ask again later; look at what stands before the server.", "retryable": True,
            }  # fmt: skip
        else:
            return _stranger(response)
    return refused(problem, response.status_code, request_id=request_id, retry_after_s=retry_after_s)


def _silent(error: httpx.HTTPError, base: str) -> NotReachable:
    sent = not isinstance(error, NOT_SENT)
    what = "broke off" if sent else "does not answer"
    return NotReachable(
        f"{base} {what}: {str(error) or type(error).__name__}.",
        next_step="It may have been done; look before you ask again."
        if sent
        else "Check that it runs, and its address.",
        sent=sent,
    )


def _stranger(response: httpx.Response) -> NotUnderstood:
    kind = response.headers.get("content-type", "nothing").partition(";")[0]
    location = response.headers.get("location")
    moved = f" and points to {location}" if location else ""
    return NotUnderstood(
        f"{response.url.host} answered {response.status_code} with {kind}{moved}: no Ragline server.",
        next_step="Correct the URL to where Ragline answers.",
    )


def _timed_out(call: Call, last: ClientError | None) -> TimedOut:
    seen = f" Before: {last.message}" if last else ""
    return TimedOut(
        f"{call.method} /{'/'.join(call.path)} was not answered in time.{seen}",
        next_step="Ask again." if call.repeatable else "It may have been done; look before you ask again.",
    )


@contextmanager
def understood() -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotUnderstood(
            f"What the server answered does not read as this client knows it: {type(error).__name__} {error}.",
            next_step="Is there a Ragline server at this URL, and of a version near the client's?",
        ) from error


def _checked(url: str) -> str:
    """Raises ValueError."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is no URL: {error}. Write it as http://HOST:PORT.") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"{url!r} is no HTTP address. Write it as http://HOST:PORT.")
    if parts.userinfo or parts.query or parts.fragment:
        raise ValueError(f"A URL at {parts.host} holds more than an address and a path. Give the API key as `key`.")
    return str(parts).rstrip("/")


def _path(parts: Sequence[str]) -> str:
    """Raises ValueError: a name that would lead to another place."""
    for part in parts:
        if part in ("", ".", ".."):
            raise ValueError(f"{part!r} is the name of nothing. Give the id, or the name, as the server told it.")
    return "".join(f"/{quote(part, safe='')}" for part in parts)
