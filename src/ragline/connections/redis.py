"""Redis, for the cache, the job queue and the job store: where it is, how long it may take, and what its errors mean.

    redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DB][?OPTION=VALUE&…]

One server, or the primary of one with replicas; a Redis Cluster is not spoken to. What an error of Redis says is never shown:
it may quote what was sent.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis.asyncio
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ragline.connections import transport
from ragline.connections.words import number, seconds, switch
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)

SCHEMES = ("redis", "rediss")
PORT = 6379
OLDEST = (6, 2)
"""Oldest server: the first that hands over what a dead reader of a stream was given (XAUTOCLAIM)."""


# ── where it is ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Options:
    """All that a URL says. Units: `timeout_s` seconds, of one command, and of connecting.

    ca: a file of certificate authorities, else the system's.   cert, key: files by which this client is known.
    verify: the server's certificate.   prefix: of every key that is ours.   connections: kept, and used, at most.
    """

    host: str
    port: int = PORT
    db: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True
    prefix: str = "ragline"
    timeout_s: float = 2.0
    connections: int = 64

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"


def options_of(url: str, setting: str) -> Options:
    """Raises ConfigurationError: what of the URL in `setting` is wrong; never with its password."""
    parts = urlsplit(url)

    def wrong(what: str, instead: str) -> ConfigurationError:
        return ConfigurationError(f"{setting}: {what}.", next_step=f"Correct the setting: {instead}.")

    login, _, place = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    found = _PLACE.fullmatch(place)
    if not found or not 0 < int(found["port"] or PORT) < 65536:
        raise wrong(f"{place!r} is not HOST:PORT", "write redis://HOST:6379, or rediss://HOST:6379 for TLS")
    if user and not password:
        raise wrong(f"the user {user!r} has no password", "write USER:PASSWORD@HOST, or :PASSWORD@HOST")
    given: dict[str, Any] = {
        "host": found["host"].strip("[]"), "port": int(found["port"] or PORT), "tls": parts.scheme == "rediss",
        "user": unquote(user), "password": unquote(password),
    }  # fmt: skip
    if db := parts.path.strip("/"):
        if not db.isdecimal():
            raise wrong(f"{db!r} is not the number of a database", "write redis://HOST:6379/0")
        given["db"] = int(db)
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _READ or name in given:
            raise wrong(f"there is no option {name!r}, or it stands there twice", f"there are {', '.join(_READ)}")
        try:
            given[name] = _READ[name](value)
        except ValueError:
            raise wrong(f"{name}={value!r} is not a value for it", "see docs/engines/redis.md") from None
    if not given["tls"] and (idle := sorted({"ca", "cert", "key", "verify"} & given.keys())):
        raise wrong(f"{', '.join(idle)}: only for rediss://", "write rediss:// for TLS")
    if ("cert" in given) != ("key" in given):
        raise wrong("cert and key go together", "give both, or none")
    for name in ("ca", "cert", "key"):
        if (file := given.get(name)) and not Path(file).is_file():
            raise wrong(f"the file {file} is not there", f"correct `{name}`")
    return Options(**given)


_PLACE = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^:@/,\[\]\s]+)(?::(?P<port>\d{1,5}))?")


def _prefix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", value):
        raise ValueError
    return value


_READ: Mapping[str, Any] = {
    "prefix": _prefix, "timeout_s": seconds(), "connections": number(most=10_000),
    "ca": str, "cert": str, "key": str, "verify": switch,
}  # fmt: skip


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Durability:
    """What a server keeps. None: it does not say, as some hosted ones.

    appendonly: whether every write goes to a file.   appendfsync: when that reaches the disk.
    maxmemory_policy: what goes when memory is full.
    """

    appendonly: bool | None
    appendfsync: str | None
    maxmemory_policy: str | None


class RedisServer:
    """One server, one pool of connections. Answers are bytes.

    `setting`: names it in messages.   `engine`: of the errors, such as "cache:redis".
    `longest_wait_s`: that a command of the caller's may block (XREADGROUP), on top of `timeout_s`.
    Nothing is tried twice: whoever calls knows whether that is right.
    """

    def __init__(self, url: str, *, setting: str, engine: str, longest_wait_s: float = 0.0) -> None:
        """Connects at the first command. Raises ConfigurationError."""
        self.options = options_of(url, setting)
        self.engine = engine
        self._setting = setting
        o = self.options
        pool = redis.asyncio.BlockingConnectionPool(
            connection_class=redis.asyncio.SSLConnection if o.tls else redis.asyncio.Connection,
            max_connections=o.connections, timeout=o.timeout_s, host=o.host, port=o.port, db=o.db,
            username=o.user or None, password=o.password or None, socket_connect_timeout=o.timeout_s,
            socket_timeout=o.timeout_s + longest_wait_s, retry=Retry(NoBackoff(), 0), protocol=2,
            client_name="ragline", **_tls(o),
        )  # fmt: skip
        self.client: redis.asyncio.Redis = redis.asyncio.Redis.from_pool(pool)

    def key(self, *parts: str) -> str:
        """``prefix:part:part``."""
        return ":".join((self.options.prefix, *parts))

    @contextmanager
    def translating(self, what: str) -> Iterator[None]:
        """Errors of Redis inside the block become ours; `what`: the call, in a few words."""
        try:
            yield
        except (*FOREIGN, OSError) as error:
            raise translated(error, what, engine=self.engine, setting=self._setting) from error
        except transport.RAISED as error:
            if not transport.closed(error):
                raise
            gone = ConnectionResetError("The connection was closed.")
            raise translated(gone, what, engine=self.engine, setting=self._setting) from error

    async def check_version(self) -> str:
        """The server's version. Raises ConfigurationError: too old.  EngineError."""
        with self.translating("asking its version"):
            told = await self.client.info("server")
        version = str(told.get("redis_version", ""))
        found = re.match(r"(\d+)\.(\d+)", version)
        if not found or (int(found[1]), int(found[2])) < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            raise ConfigurationError(
                f"{self._setting}: the Redis at {self.options.place} is {version or 'of no known version'}; the oldest that "
                f"is supported is {wanted}.",
                next_step=f"Use Redis {wanted} or newer, or a Valkey.",
            )
        return version

    async def durability(self) -> Durability:
        """What it keeps, and what it throws away. Raises EngineError."""
        with self.translating("asking its settings"):
            told = await self.client.info()
        policy = told.get("maxmemory_policy")
        aof = told.get("aof_enabled")
        try:
            with self.translating("asking its settings"):
                fsync = (await self.client.config_get("appendfsync")).get("appendfsync")
        except EngineRejected:  # hosted servers do not let clients read their settings
            fsync = None
        return Durability(None if aof is None else bool(aof), _text(fsync), _text(policy))

    async def aclose(self) -> None:
        await self.client.aclose()


def _text(value: object) -> str | None:
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)


def _tls(options: Options) -> dict[str, Any]:
    if not options.tls:
        return {}
    return {
        "ssl_ca_certs": options.ca or None, "ssl_certfile": options.cert or None, "ssl_keyfile": options.key or None,
        "ssl_cert_reqs": "required" if options.verify else "none", "ssl_check_hostname": options.verify,
    }  # fmt: skip


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_AWAY = "Check that Redis runs, and that host and port in the URL of `{setting}` are its; TLS is rediss://."
_BUSY = "Look at its load, and at slow commands (SLOWLOG GET); with rediss://, at whether the port speaks TLS."
_LOGIN = "Correct user and password in the URL of `{setting}`."
_RIGHTS = "Let this user read and write the keys of our prefix, and run the commands that docs/engines/redis.md names."
_FULL = "Give it more memory (maxmemory), or an eviction policy where it is a cache alone."
_CLUSTER = "Redis Cluster is not supported: name a single server, or the primary of one with replicas."
_PRIMARY = "It is a replica: name the primary in the URL of `{setting}`."
_KEYS = "Others use keys of our prefix: set another one by `prefix` behind the URL of `{setting}`."
_DISK = "Its disk is full or fails: look at the server's log. It takes writes again when saving succeeds."
_DEFECT = "This is a defect of Ragline: report it with the log."
_TLS = "Name the authority's file by `ca` behind the URL of `{setting}`; or write redis:// where there is no TLS."
_OLD = "Use Redis 6.2 or newer; and let this user run the commands that docs/engines/redis.md names."

_Row = tuple[type[EngineError], str, str]

BY_CODE: Mapping[str, _Row] = {
    "LOADING": (EngineUnavailable, "It is loading its data.", "It answers when it is done."),
    "BUSY": (EngineUnavailable, "A script keeps it busy.", _BUSY),
    "OOM": (EngineUnavailable, "Its memory is full.", _FULL),
    "MISCONF": (EngineUnavailable, "It cannot save its data.", _DISK),
    "NOREPLICAS": (EngineUnavailable, "It has too few replicas.", "Look at its replicas (min-replicas-to-write)."),
    "MASTERDOWN": (EngineUnavailable, "Its primary is away.", _PRIMARY),
    "READONLY": (EngineUnavailable, "It takes no writes.", _PRIMARY),
    "CLUSTERDOWN": (EngineUnavailable, "The cluster is down.", _CLUSTER),
    "TRYAGAIN": (EngineUnavailable, "The cluster moves keys.", _CLUSTER),
    "MOVED": (EngineRejected, "It is a cluster.", _CLUSTER),
    "ASK": (EngineRejected, "It is a cluster.", _CLUSTER),
    "CROSSSLOT": (EngineRejected, "It is a cluster.", _CLUSTER),
    "WRONGPASS": (EngineDenied, "User or password are wrong.", _LOGIN),
    "NOAUTH": (EngineDenied, "It wants a password.", _LOGIN),
    "NOPERM": (EngineDenied, "This user may not do that.", _RIGHTS),
    "WRONGTYPE": (EngineRejected, "A key holds something else.", _KEYS),
    "NOSCRIPT": (EngineUnavailable, "It has forgotten a script.", "The call is tried again."),
    "EXECABORT": (EngineError, "It refused one command of several.", "Look at its memory and at its log."),
    "NOGROUP": (EngineError, "A group of a stream is gone.", "The call is tried again."),
}
"""The first word of an error answer → what we say."""

BY_CLASS: tuple[tuple[type[BaseException], _Row], ...] = (
    (exceptions.AuthenticationWrongNumberOfArgsError, (EngineDenied, "It knows passwords alone.", _OLD)),
    (exceptions.AuthenticationError, BY_CODE["WRONGPASS"]),
    (exceptions.AuthorizationError, BY_CODE["NOPERM"]),
    (exceptions.BusyLoadingError, BY_CODE["LOADING"]),
    (exceptions.NoPermissionError, BY_CODE["NOPERM"]),
    (exceptions.OutOfMemoryError, BY_CODE["OOM"]),
    (exceptions.ReadOnlyError, BY_CODE["READONLY"]),
    (exceptions.NoScriptError, BY_CODE["NOSCRIPT"]),
    (exceptions.ExecAbortError, BY_CODE["EXECABORT"]),
    (exceptions.MasterDownError, BY_CODE["MASTERDOWN"]),
    (exceptions.ClusterDownError, BY_CODE["CLUSTERDOWN"]),
    (exceptions.TryAgainError, BY_CODE["TRYAGAIN"]),
    (exceptions.AskError, BY_CODE["MOVED"]),
    (exceptions.ClusterCrossSlotError, BY_CODE["CROSSSLOT"]),
    (exceptions.ClusterError, BY_CODE["CLUSTERDOWN"]),
    (exceptions.RedisClusterException, BY_CODE["MOVED"]),
    (exceptions.TimeoutError, (EngineTimeout, "It did not answer in time.", _BUSY)),
    (exceptions.ConnectionError, (EngineUnavailable, "It cannot be reached.", _AWAY)),
    (exceptions.InvalidResponse, (EngineRejected, "What answers is not Redis.", _AWAY)),
    (exceptions.WatchError, (EngineError, "Others changed the same key.", "The call is tried again.")),
    (exceptions.LockError, (EngineError, "Others hold the lock.", "The call is tried again.")),
    (exceptions.ResponseError, (EngineRejected, "It refuses the command.", _OLD)),
    (exceptions.RedisError, (EngineRejected, "The call is wrong.", _DEFECT)),
    (exceptions.ChildDeadlockedError, (EngineRejected, "The call is wrong.", _DEFECT)),
    (exceptions.IncorrectPolicyType, (EngineRejected, "The call is wrong.", _DEFECT)),
    (TimeoutError, (EngineTimeout, "It did not answer in time.", _BUSY)),
    (OSError, (EngineUnavailable, "It cannot be reached.", _AWAY)),
)
"""What the client raises; the first that fits, where the answer's first word says no more."""

NO_TLS: _Row = (EngineRejected, "TLS failed: the certificate is not trusted, or the port speaks no TLS.", _TLS)
NOT_FREE: _Row = (EngineTimeout, "No connection came free in time.", _BUSY)
"""What redis-py says no better than that there is no connection."""

FOREIGN = (
    exceptions.RedisError, exceptions.RedisClusterException, exceptions.ChildDeadlockedError, exceptions.IncorrectPolicyType,
)  # fmt: skip
"""The roots of what redis-py raises."""


def code_of(error: BaseException) -> str:
    """The first word of an error answer, such as ``WRONGTYPE``; empty: it is none."""
    code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
    return code if isinstance(error, exceptions.ResponseError) and re.fullmatch(r"[A-Z]+", code) else ""


def translated(error: BaseException, what: str, *, engine: str, setting: str) -> EngineError:
    """The error of our tree that `error` is; `what`: the call, in a few words."""
    code = code_of(error)
    ours, reason, step = _row(error, code)
    word = code or type(error).__name__
    return ours(f"Redis: {what} failed. {reason} ({word})", next_step=step.format(setting=setting), engine=engine)


def _row(error: BaseException, code: str) -> _Row:
    if isinstance(error, exceptions.ConnectionError) and _caused_by(error, ssl.SSLError):
        return NO_TLS
    if isinstance(error, exceptions.ConnectionError) and _caused_by(error, TimeoutError):
        return NOT_FREE
    return BY_CODE.get(code) or next(row for kind, row in BY_CLASS if isinstance(error, kind))


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind) and not isinstance(error, exceptions.RedisError):
            return True
        error = error.__cause__ or error.__context__
    return False
