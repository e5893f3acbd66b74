"""Keys while the registry is away: those that were seen go on being good, for a while, and nobody else is let in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from ragline.breaker import Breaker
from ragline.chaos.wire import Wire
from ragline.chaos.wires import places, through
from ragline.connections.database import Database
from ragline.errors import EngineError, EngineTimeout, EngineUnavailable, Unauthenticated
from ragline.registry.keys import AWAY_S, Keys
from ragline.registry.migrations import SCHEMA
from tests.clock import HandClock
from tests.engines.postgres import Postgres


@dataclass(frozen=True)
class Away:
    keys: Keys
    wire: Wire
    clock: HandClock
    registry: Breaker

    async def made(self, principal: str, *, expires_in_s: float | None = None) -> tuple[str, str]:
        """Id and token."""
        expires_at = None if expires_in_s is None else self.clock.now() + expires_in_s
        key, token = await self.keys.create(
            principal, "read", namespaces=None, groups=frozenset(), expires_at=expires_at
        )
        return key.id, token


@pytest.fixture
async def away(postgres: Postgres) -> AsyncIterator[Away]:
    """A registry behind a wire, which the tests cut."""
    async with AsyncExitStack() as stack:
        url = await postgres.database()
        wire = await stack.enter_async_context(Wire("registry", places(url)[0], port=0))
        database = await Database.open(through(url, [wire.port]), SCHEMA)
        stack.push_async_callback(database.aclose)
        clock = HandClock()
        registry = Breaker("registry", clock, called="The registry")
        stack.push_async_callback(registry.aclose)
        yield Away(Keys(database, clock, registry), wire, clock, registry)


async def test_a_key_that_was_seen_stays_good_and_one_that_was_not_is_not_taken_for_wrong(away: Away) -> None:
    _, token = await away.made("seen")
    _, unseen = await away.made("unseen")
    assert await away.keys.exist()
    assert (await away.keys.caller(token)).principal == "seen"
    away.wire.refuse()
    answers = await asyncio.gather(*(away.keys.caller(one) for one in (token, unseen)), return_exceptions=True)
    assert [getattr(one, "principal", type(one)) for one in answers] == ["seen", EngineUnavailable]
    assert await away.keys.exist()
    with pytest.raises(Unauthenticated):
        await away.keys.caller(f"{token}x")
    away.clock.move(AWAY_S)
    with pytest.raises(EngineError):
        await away.keys.caller(token)
    with pytest.raises(EngineError):
        await away.keys.exist()
    await away.wire.heal()
    assert (await away.keys.caller(token)).principal == "seen"
    assert (await away.keys.caller(unseen)).principal == "unseen"


async def test_what_ends_it_while_the_registry_is_away_ends_it(away: Away) -> None:
    _, token = await away.made("guest", expires_in_s=60)
    assert (await away.keys.caller(token)).principal == "guest"
    away.wire.refuse()
    away.clock.move(61)
    with pytest.raises(Unauthenticated, match="expired"):
        await away.keys.caller(token)


async def test_one_that_is_known_to_be_revoked_is_refused(away: Away) -> None:
    id, token = await away.made("former")
    await away.keys.caller(token)
    await away.keys.revoke(id)
    with pytest.raises(Unauthenticated, match="revoked"):
        await away.keys.caller(token)
    away.wire.refuse()
    with pytest.raises(Unauthenticated, match="revoked"):
        await away.keys.caller(token)


async def test_a_silent_registry_is_not_waited_for_where_it_was_seen_and_left_out_is_not_asked(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = await away.made("seen")
    _, unseen = await away.made("unseen")
    assert (await away.keys.caller(token)).principal == "seen"
    away.wire.hold()
    both = await asyncio.gather(*(away.keys.caller(one) for one in (token, unseen)), return_exceptions=True)
    assert [getattr(one, "principal", type(one)) for one in both] == ["seen", EngineTimeout]
    while not away.registry.is_open:
        away.registry.failed(EngineUnavailable("silent", next_step="", engine="registry"), asyncio.Event().wait)
    monkeypatch.setattr(Database, "read", None)
    assert (await away.keys.caller(token)).principal == "seen"
    await away.wire.heal()
