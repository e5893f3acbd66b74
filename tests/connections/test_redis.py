"""What the URL of a Redis says, what its errors become, and that no call takes longer than it may."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from redis import exceptions

from ragline.chaos.wire import Wire
from ragline.connections.redis import BY_CLASS, BY_CODE, Durability, RedisServer, options_of, translated
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from tests.engines.elasticsearch_door import certificate
from tests.engines.redis import Redis, server
from tests.engines.server import free_port

KINDS = [
    kind
    for kind in vars(exceptions).values()
    if inspect.isclass(kind) and issubclass(kind, Exception) and kind.__module__ == exceptions.__name__
]


def _raised(kind: type[Exception]) -> Exception:
    return kind("7 127.0.0.1:7000") if issubclass(kind, exceptions.AskError) else kind("secret words")


def _ours(error: BaseException) -> EngineError:
    return translated(error, "reading", engine="cache:redis", setting="cache.url")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_redis_is_one_of_our_tree(kind: type[Exception]) -> None:
    ours = _ours(_raised(kind))
    assert kind.__name__ in ours.message
    assert ours.next_step
    assert "secret" not in str(ours)
    assert "{" not in str(ours)
    rows = [row for one, row in BY_CLASS if issubclass(kind, one)]
    assert isinstance(ours, rows[0][0])
    generic = (exceptions.RedisError, exceptions.ResponseError)
    if kind.__base__ not in (*generic, Exception, exceptions.ConnectionError):
        assert any(one not in generic for one, _ in BY_CLASS if issubclass(kind, one))


@pytest.mark.parametrize("code", BY_CODE)
def test_an_answer_is_known_by_its_first_word(code: str) -> None:
    ours = _ours(exceptions.ResponseError(f"{code} a key of somebody's secret"))
    assert type(ours) is BY_CODE[code][0]
    assert code in ours.message
    assert "secret" not in str(ours)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (exceptions.AuthenticationError("x"), EngineDenied),
        (exceptions.OutOfMemoryError("x"), EngineUnavailable),
        (exceptions.ReadOnlyError("x"), EngineUnavailable),
        (exceptions.BusyLoadingError("x"), EngineUnavailable),
        (exceptions.TimeoutError("x"), EngineTimeout),
        (exceptions.ConnectionError("x"), EngineUnavailable),
        (exceptions.MaxConnectionsError("x"), EngineUnavailable),
        (exceptions.MovedError("7 127.0.0.1:7000"), EngineRejected),
        (exceptions.ResponseError("ERR unknown command 'XAUTOCLAIM'"), EngineRejected),
        (TimeoutError(), EngineTimeout),
        (ConnectionResetError(), EngineUnavailable),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_table(error: Exception, ours: type[EngineError]) -> None:
    assert type(_ours(error)) is ours


def test_what_a_url_says(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("")
    files = "&".join(f"{name}={tmp_path / name}" for name in ("ca", "cert", "key"))
    options = options_of(
        f"rediss://user:p%40ss@one:6380/3?{files}&prefix=house&timeout_s=0.5&connections=9", "cache.url"
    )
    assert (options.host, options.port, options.db, options.tls) == ("one", 6380, 3, True)
    assert (options.user, options.password, options.prefix) == ("user", "p@ss", "house")
    assert (options.timeout_s, options.connections, options.verify) == (0.5, 9, True)
    assert options_of("redis://one", "cache.url").place == "one:6379"
    assert options_of("redis://:word@[::1]:7000", "cache.url").host == "::1"
    assert "p@ss" not in repr(options)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://", "HOST:PORT"),
        ("redis://one:port", "HOST:PORT"),
        ("redis://one:70000", "HOST:PORT"),
        ("redis://one,two", "HOST:PORT"),
        ("redis://secret@one", "has no password"),
        ("redis://one/name", "'name' is not the number"),
        ("redis://one?prefix=a:b", "prefix='a:b'"),
        ("redis://one?timeout_s=0", "timeout_s='0'"),
        ("redis://one?connections=many", "connections='many'"),
        ("redis://one?password=secret", "no option 'password'"),
        ("redis://one?ca=x", "ca: only for rediss://"),
        ("rediss://one?ca=/nowhere", "/nowhere is not there"),
        ("rediss://one?cert=/nowhere", "cert and key go together"),
        ("rediss://one?verify=perhaps", "verify='perhaps'"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        options_of(url, "cache.url")
    assert words in refused.value.message
    assert "cache.url" in refused.value.message


async def test_the_server_is_asked_what_it_is(redis: Redis) -> None:
    ours = RedisServer(redis.url(), setting="cache.url", engine="cache:redis")
    version = await ours.check_version()
    assert int(version.partition(".")[0]) >= 6
    assert (await ours.durability()).maxmemory_policy
    await ours.aclose()
    await ours.aclose()


async def test_an_old_server_is_refused(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragline.connections.redis.OLDEST", (99, 0))
    ours = RedisServer(redis.url(), setting="cache.url", engine="cache:redis")
    with pytest.raises(ConfigurationError, match=r"the oldest that is supported is 99\.0"):
        await ours.check_version()
    await ours.aclose()


async def test_what_a_server_keeps(tmp_path: Path) -> None:
    words = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "allkeys-lru")
    with server(tmp_path, *words) as kept:
        ours = RedisServer(kept.url(), setting="jobs.url", engine="jobs:redis")
        assert await ours.durability() == Durability(True, "always", "allkeys-lru")
        await ours.aclose()
    hidden = (*words, "--rename-command", "CONFIG", "")
    with server(tmp_path, *hidden) as kept:
        ours = RedisServer(kept.url(), setting="jobs.url", engine="jobs:redis")
        assert await ours.durability() == Durability(True, None, "allkeys-lru")
        await ours.aclose()


async def test_a_wrong_password_is_told_and_not_shown(tmp_path: Path) -> None:
    with server(tmp_path, "--requirepass", "right-secret") as locked:
        for login in ("", ":wrong-secret@"):
            url = f"redis://{login}{locked.netloc}"
            ours = RedisServer(url, setting="cache.url", engine="cache:redis")
            with pytest.raises(EngineDenied) as refused:
                await ours.check_version()
            assert "user and password" in refused.value.next_step
            assert "secret" not in str(refused.value)
            await ours.aclose()
        ours = RedisServer(f"redis://:right-secret@{locked.netloc}", setting="cache.url", engine="cache:redis")
        await ours.check_version()
        await ours.aclose()


async def test_a_wrong_port_is_told() -> None:
    ours = RedisServer(f"redis://127.0.0.1:{free_port()}", setting="cache.url", engine="cache:redis")
    with pytest.raises(EngineUnavailable) as away:
        await ours.check_version()
    assert "`cache.url`" in away.value.next_step
    await ours.aclose()


async def test_tls_and_what_goes_wrong_with_it(tmp_path: Path) -> None:
    authority, pair = certificate(tmp_path)
    port = free_port()
    words = ("--tls-port", port, "--tls-cert-file", pair, "--tls-key-file", pair, "--tls-auth-clients", "no")
    with server(tmp_path, *map(str, words)):
        for query, wrong in (
            (f"ca={authority}", ""),
            ("verify=false", ""),
            ("", "the certificate is not trusted"),
        ):
            ours = RedisServer(f"rediss://127.0.0.1:{port}?{query}", setting="cache.url", engine="cache:redis")
            if wrong:
                with pytest.raises(EngineRejected, match=wrong):
                    await ours.check_version()
            else:
                await ours.check_version()
            await ours.aclose()
        plain = RedisServer(f"redis://127.0.0.1:{port}", setting="cache.url", engine="cache:redis")
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            await plain.check_version()
        await plain.aclose()


async def test_a_server_that_answers_nothing_is_asked_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}?timeout_s=0.2"
        ours = RedisServer(url, setting="cache.url", engine="cache:redis")
        with pytest.raises(EngineTimeout):
            await ours.check_version()
        await ours.aclose()
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # else it was tried again
            silent.accept()


async def test_a_server_that_comes_back_is_reached_again(own_redis: Redis) -> None:
    ours = RedisServer(own_redis.url(), setting="cache.url", engine="cache:redis")
    await ours.client.set(ours.key("a"), b"1")
    own_redis.kill()
    with pytest.raises(EngineUnavailable):
        await ours.check_version()
    own_redis.start()
    assert await ours.client.get(ours.key("a")) == b"1", "written before the answer, to a file"
    await ours.aclose()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_whatever_a_cut_connection_raises_is_one_of_our_tree(redis: Redis, loop: Callable[[], Any]) -> None:
    """Many share the pool, so that some write to what has just been closed: uvloop calls that a RuntimeError."""
    told: Counter[str] = Counter()

    async def call(ours: RedisServer, until: asyncio.Event) -> None:
        while not until.is_set():
            try:
                with ours.translating("asking"):
                    await ours.client.get(ours.key("a"))
                told["answered"] += 1
            except EngineUnavailable:
                told["away"] += 1
            await asyncio.sleep(0.002)

    async def run() -> None:
        options, done = options_of(redis.url(), "cache.url"), asyncio.Event()
        async with Wire("redis", (options.host, options.port), port=0) as wire:
            ours = RedisServer(f"redis://127.0.0.1:{wire.port}", setting="cache.url", engine="cache:redis")
            callers = [asyncio.create_task(call(ours, done)) for _ in range(40)]
            for _ in range(20):
                await asyncio.sleep(0.05)
                await wire.cut(away_s=0.02)
            done.set()
            await asyncio.gather(*callers)
            await ours.aclose()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
    assert told["answered"]
    assert told["away"]


async def test_what_is_our_own_defect_stays_one() -> None:
    ours = RedisServer("redis://127.0.0.1", setting="cache.url", engine="cache:redis")
    with pytest.raises(RuntimeError, match="mine"), ours.translating("asking"):
        raise RuntimeError("mine")
    with pytest.raises(TypeError, match="callable"), ours.translating("asking"):
        cast(Any, None)()
    reader = asyncio.StreamReader()
    first = asyncio.create_task(reader.read(1))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another coroutine"), ours.translating("asking"):
        await reader.read(1)
    first.cancel()


@pytest.mark.parametrize("method", ["write", "writelines"])
@pytest.mark.parametrize("error", [TypeError("'NoneType' object is not callable"), AttributeError("_add_writer")])
def test_what_other_versions_of_asyncio_raise_in_a_write_is_a_closed_connection(error: Exception, method: str) -> None:
    """Of Python 3.12 to 3.14, as their transports do it."""
    ours = RedisServer("redis://127.0.0.1", setting="cache.url", engine="cache:redis")
    transport: dict[str, Any] = {"__name__": "asyncio.selector_events", "error": error}
    exec(f"def {method}(data):\n    raise error", transport)
    with pytest.raises(EngineUnavailable, match="cannot be reached"), ours.translating("asking"):
        transport[method](b"")


async def test_a_full_server_may_take_it_later(tmp_path: Path) -> None:
    with server(tmp_path, "--maxmemory", "1mb", "--maxmemory-policy", "noeviction") as full:
        ours = RedisServer(full.url(), setting="jobs.url", engine="jobs:redis")

        async def fill() -> None:
            with ours.translating("writing"):
                for n in range(20):
                    await ours.client.set(ours.key(str(n)), b"x" * 100_000)

        with pytest.raises(EngineUnavailable, match="memory is full"):
            await fill()
        await ours.aclose()
