"""PostgreSQL, for the registry and for pgvector: where it is, how long it may take, and what its errors mean.

    postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full&sslrootcert=/path/ca.pem

`sslmode` is as libpq has it (disable, prefer, require, verify-ca, verify-full; prefer by default).
"""

from __future__ import annotations

import re
import ssl
from typing import Any

import asyncpg
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnection

from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)

OLDEST = 14
"""Oldest server: the ones before get no fixes any more."""

CONNECT_S = 5.0
COMMAND_S = 60.0
"""Longest that one statement may take, waiting for the writer's lock included."""

ENDED_BY_SERVER = {"idle_in_transaction_session_timeout": f"{COMMAND_S * 1000:.0f}"}
"""A machine that vanishes in a transaction says nothing any more: the server ends it, or its lock would hold all writers."""

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

REFUSED = {
    "28P01": ("The server refuses the password", "Correct the user and the password in the URL."),
    "28000": ("The server refuses the user", "Correct the user in the URL, or allow it in the server's pg_hba.conf."),
    "3D000": ("The database does not exist", "Create it (CREATE DATABASE …), or correct its name in the URL."),
    "42501": (
        "The user may not do this",
        "Grant it the rights on the database: it must create tables, read and write.",
    ),
    "42P01": ("A table is gone", "Somebody dropped it: restore a backup, or begin with an empty database."),
    "0A000": (
        "The server cannot do this",
        "Use a server of a supported version, with the extensions that the docs name.",
    ),
}
"""SQLSTATE → what it means, and the next step: nothing that comes right by itself."""

DENIED = ("28P01", "28000", "42501")
"""Of these: no user, no right."""

UNFIT = {
    "22": ("The data does not fit", "Look at what was sent: a number out of range, a vector of another length."),
    "54": ("It is over a limit of the server", "Send less at a time, or shorter texts."),
}
"""Class of SQLSTATE → the same, for what is wrong with the data."""

AWAY = {
    "08": ("The connection was lost", "Try again; look at the server's log if it stays so."),
    "57": ("The server ends connections", "It is shutting down or starting: try again."),
    "53": ("The server is out of room or connections", "Check its disk, its memory, and max_connections."),
    "40": ("The transaction was undone", "Try again."),
    "55": ("Somebody else holds a lock", "Try again."),
    "25": ("The server takes no writes", "It is a standby, or read-only: name the primary in the URL."),
    "58": ("The server's own disk failed", "Look at the server's log."),
    "XX": ("The server failed", "Look at the server's log."),
}
"""Class of SQLSTATE → the same, for what may come right."""


def asyncpg_url(url: URL) -> URL:
    """As SQLAlchemy takes it, without the words that are ours to apply."""
    return url.set(drivername="postgresql+asyncpg", query={})


def settings_of(url: URL) -> dict[str, Any]:
    """What `asyncpg.connect` takes beside the address. Raises ConfigurationError: a word of the URL that is not known."""
    words = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    mode, roots = words.pop("sslmode", "prefer"), words.pop("sslrootcert", None)
    if words or mode not in SSL_MODES:
        wrong = f"sslmode={mode}" if mode not in SSL_MODES else ", ".join(sorted(words))
        raise ConfigurationError(
            f"The PostgreSQL URL has {wrong}, which is not known.",
            next_step=f"Use sslmode (one of {', '.join(SSL_MODES)}) and sslrootcert, or leave them out.",
        )
    encrypted: Any = mode
    if mode in ("verify-ca", "verify-full"):
        try:
            encrypted = ssl.create_default_context(cafile=roots)
        except OSError as error:
            raise ConfigurationError(
                f"sslrootcert {roots!r} cannot be read: {error.strerror or error}.",
                next_step="Name a file with the certificates of the authority, or leave it out for the system's.",
            ) from error
        encrypted.check_hostname = mode == "verify-full"
    return {"ssl": encrypted, "timeout": CONNECT_S, "command_timeout": COMMAND_S, "server_settings": ENDED_BY_SERVER}


def check_version(version: str) -> None:
    """Raises ConfigurationError: too old."""
    found = re.match(r"\d+", version)
    if not found or int(found.group()) < OLDEST:
        raise ConfigurationError(
            f"The PostgreSQL server is {version}; the oldest that is supported is {OLDEST}.",
            next_step=f"Use a server of version {OLDEST} or newer.",
        )


def failure(error: BaseException, *, engine: str) -> EngineError:
    """The error table: what SQLAlchemy, asyncpg or the network raised, in words of our tree."""
    if isinstance(error, DBAPIError):
        cause = error.orig.__cause__ if error.orig is not None else None
        error = cause or error.orig or error
    words = " ".join(str(error).split())[:300] or type(error).__name__
    state = getattr(error, "sqlstate", None) or ""
    if isinstance(error, NoConnection):
        return EngineTimeout(
            f"No connection to PostgreSQL came free ({words}).",
            next_step="The server is slow, or silent: look at its load and its locks.",
            engine=engine,
        )
    if isinstance(error, TimeoutError):
        return EngineTimeout(
            f"PostgreSQL did not answer in time ({words}).", next_step="Look at its load and its locks.", engine=engine
        )
    if state in REFUSED:
        meaning, step = REFUSED[state]
        kind = EngineDenied if state in DENIED else EngineRejected
        return kind(f"{meaning} ({words}).", next_step=step, engine=engine)
    if state[:2] in UNFIT:
        meaning, step = UNFIT[state[:2]]
        return EngineRejected(f"{meaning} ({words}).", next_step=step, engine=engine)
    if state[:2] in AWAY:
        meaning, step = AWAY[state[:2]]
        return EngineUnavailable(f"{meaning} ({words}).", next_step=step, engine=engine)
    if isinstance(error, ssl.SSLError) or "SSL" in words:
        return EngineRejected(
            f"The encrypted connection was not made ({words}).",
            next_step="Correct sslmode and sslrootcert in the URL, or the server's certificate.",
            engine=engine,
        )
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.PostgresConnectionError):
        return EngineUnavailable(
            f"PostgreSQL is not reached ({words}).",
            next_step="Check host and port in the URL, and that the server runs.",
            engine=engine,
        )
    return EngineRejected(
        f"PostgreSQL refused the call ({state or type(error).__name__}: {words}).",
        next_step="This is a defect of Ragline: report it with the log.",
        engine=engine,
    )
