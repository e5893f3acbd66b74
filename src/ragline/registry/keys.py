"""API keys: who may do what, where, and which groups it reads for.

A key reads ``rgl_<id>_<secret>``. Only a SHA-256 of the secret is kept: 256 random bits need no slow hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, insert, literal, select, update

from ragline.breaker import Breaker
from ragline.clock import Clock
from ragline.coalescing import Coalescer
from ragline.connections.database import Database
from ragline.errors import EngineError, EngineTimeout, NotFound, Unauthenticated
from ragline.registry.tables import keys
from ragline.types import Caller, Groups, Role

PREFIX = "rgl"
_ID = re.compile("[0-9a-f]{12}")

MOST_AT_ONCE = 1_000
"""Requests whose keys are looked up by one read."""

AWAY_S = 900.0
"""How long, while the registry is away, a key counts that was seen in it. Nobody can revoke one meanwhile, unless it is this
process alone that is cut off: so long at most a revoked one is good in it then."""

LOOK_S = 0.25
"""Longest wait for the registry, where what was seen of it can answer."""

MOST_SEEN = 10_000

_EXIST = select(literal(1)).where(keys.c.revoked_at.is_(None)).limit(1)


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is shown: never its secret. Units: times in seconds since 1970."""

    id: str
    principal: str
    role: Role
    namespaces: frozenset[str] | None
    groups: Groups
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class Keys:
    """`registry`: while it is left out, what was seen last counts without another try."""

    def __init__(self, database: Database, clock: Clock, registry: Breaker | None = None) -> None:
        self._database = database
        self._clock = clock
        self._registry = registry
        self._exist: tuple[int, bool] | None = None
        """At which count of commits it was asked whether a key exists, and the answer. Every request without one asks."""
        self._existed_at = -math.inf
        self._seen: dict[str, tuple[float, Any]] = {}
        """Id → when its row was read, and the row; of keys that there are."""
        # Thousands of requests that come together are one read, which begins when they have all come.
        self._existing: Coalescer[None, bool] = Coalescer(self._any, most=MOST_AT_ONCE)
        self._looks: Coalescer[str, Any] = Coalescer(self._look, most=MOST_AT_ONCE)

    async def create(
        self, principal: str, role: Role, *, namespaces: frozenset[str] | None, groups: Groups, expires_at: float | None
    ) -> tuple[Key, str]:
        """A new key and its token, which is shown this once."""
        id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)

        def work(connection: Connection) -> None:
            connection.execute(
                insert(keys).values(
                    id=id, hash=_hash(secret), principal=principal, role=role, groups=sorted(groups),
                    namespaces=None if namespaces is None else sorted(namespaces), created_at=self._clock.now(),
                    expires_at=expires_at,
                )
            )  # fmt: skip

        await self._database.write(work)
        return await self.get(id), f"{PREFIX}_{id}_{secret}"

    async def rotate(self, id: str, *, grace_s: float) -> str:
        """A new token for the same key; the old one is good for `grace_s` more. Raises NotFound."""
        secret = secrets.token_urlsafe(32)

        def work(connection: Connection) -> None:
            changed = connection.execute(
                update(keys)
                .where(keys.c.id == id, keys.c.revoked_at.is_(None))
                .values(hash=_hash(secret), retiring_hash=keys.c.hash, retiring_until=self._clock.now() + grace_s)
            )
            _must(changed.rowcount, id)

        await self._database.write(work)
        return f"{PREFIX}_{id}_{secret}"

    async def revoke(self, id: str) -> None:
        """Refuse the key from now on. Raises NotFound."""

        def work(connection: Connection) -> None:
            changed = connection.execute(
                update(keys).where(keys.c.id == id, keys.c.revoked_at.is_(None)).values(revoked_at=self._clock.now())
            )
            _must(changed.rowcount, id)

        await self._database.write(work)

    async def get(self, id: str) -> Key:
        rows = await self._select(id)
        _must(len(rows), id)
        return _key(rows[0])

    async def all(self) -> list[Key]:
        return [_key(row) for row in await self._select(None)]

    async def exist(self) -> bool:
        """Does a key exist that is not revoked? While none does, loopback is open."""
        if self._exist is not None and self._exist[0] == self._database.commits and self._database.alone:
            return self._exist[1]
        return await self._existing(None)

    async def _any(self, askers: list[None]) -> list[bool | Exception]:
        commits, read_at = self._database.commits, self._clock.monotonic()
        seen = read_at - self._existed_at < AWAY_S and self._exist is not None
        try:
            found = await self._read(_EXIST, seen=seen)
        except EngineError:
            if self._exist is None or not seen:
                raise
            return [self._exist[1]] * len(askers)
        # Of before the read, so that a commit beside it is not missed.
        self._exist, self._existed_at = (commits, bool(found)), read_at
        return [bool(found)] * len(askers)

    async def caller(self, token: str) -> Caller:
        """Who holds `token`. Raises Unauthenticated: unknown, expired, revoked; the words do not say which part is wrong."""
        prefix, _, rest = token.partition("_")
        id, _, secret = rest.partition("_")
        row = await self._looks(id) if prefix == PREFIX and secret and _ID.fullmatch(id) else None
        now = self._clock.now()
        if row is not None and _matches(row, secret, now):
            key = _key(row)
            if key.revoked_at is not None:
                raise _refused(f"API key {id} was revoked.")
            if key.expires_at is not None and key.expires_at <= now:
                raise _refused(f"API key {id} has expired.")
            return Caller(key.principal, key.role, key.namespaces, key.groups)
        raise _refused("The API key is not known.")

    async def _look(self, ids: list[str]) -> list[Any]:
        """A row for each, or None; while the registry is away the row that was seen, or the error."""
        now = self._clock.monotonic()
        seen = {id: self._seen[id][1] for id in ids if id in self._seen and now - self._seen[id][0] < AWAY_S}
        try:
            read = await self._read(select(keys).where(keys.c.id.in_(set(ids))), seen=bool(seen))
        except EngineError as error:
            return [seen.get(id, error) for id in ids]
        rows = {row.id: row for row in read}
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        for id in ids:
            self._seen.pop(id, None)
        self._seen |= {id: (now, row) for id, row in rows.items()}
        return [rows.get(id) for id in ids]

    async def _read(self, chosen: Select[Any], *, seen: bool) -> Sequence[Any]:
        """`seen`: there is another answer. Raises EngineError: the registry is away, late or left out."""
        if seen and self._registry and self._registry.is_open:
            raise self._registry.left_out()
        try:
            async with asyncio.timeout(LOOK_S if seen else None):
                return await self._database.read(lambda connection: connection.execute(chosen).all())
        except TimeoutError as error:
            raise EngineTimeout(
                f"The registry did not say within {LOOK_S:g} s who holds the key.",
                next_step="Look at the registry's load.",
                engine="registry",
            ) from error

    async def _select(self, id: str | None) -> list[Any]:
        query = select(keys).order_by(keys.c.created_at)
        if id is not None:
            query = query.where(keys.c.id == id)
        return await self._database.read(lambda connection: list(connection.execute(query)))


def _matches(row: Any, secret: str, now: float) -> bool:
    given = _hash(secret)
    if hmac.compare_digest(row.hash, given):
        return True
    retiring = row.retiring_hash if row.retiring_until and row.retiring_until > now else None
    return retiring is not None and hmac.compare_digest(retiring, given)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(row: Any) -> Key:
    return Key(
        id=row.id,
        principal=row.principal,
        role=row.role,
        namespaces=None if row.namespaces is None else frozenset(row.namespaces),
        groups=frozenset(row.groups),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _refused(message: str) -> Unauthenticated:
    return Unauthenticated(
        message, next_step="Send `Authorization: Bearer rgl_…`; make a key with `ragline keys create`."
    )


def _must(found: int, id: str) -> None:
    if not found:
        raise NotFound(f"There is no active API key {id[:80]!r}.", next_step="List the keys with `ragline keys list`.")
