"""What a query knows of its namespace while the registry says nothing."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from ragline import snapshots as module
from ragline.breaker import Breaker
from ragline.errors import NotFound
from ragline.registry.namespaces import Namespaces
from ragline.snapshots import Snapshots
from tests.clock import HandClock


class Registry:
    """`silent`: it says nothing. `gone`: there is no such namespace."""

    def __init__(self) -> None:
        self.asked, self.silent, self.gone = 0, False, False
        self.under_way = 0

    async def get(self, name: str) -> str:
        self.asked += 1
        self.under_way += 1
        try:
            if self.silent:
                await asyncio.Event().wait()
        finally:
            self.under_way -= 1
        if self.gone:
            raise NotFound("It is gone.", next_step="Make it.")
        return f"{name}:{self.asked}"


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def kept(registry: Registry, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "READ_S", 0.01)
    return Snapshots(cast(Namespaces, registry), clock, Breaker("registry", clock, called="The registry"))


async def _looked(kept: Any) -> None:
    while kept._beside:
        await asyncio.sleep(0)


async def test_a_silent_registry_is_waited_for_once_and_then_asked_beside(
    kept: Any, registry: Registry, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await kept.get("a") == "a:1"
    registry.silent = True
    clock.move(1.001)
    assert await kept.get("a") == "a:1"  # waited for
    clock.move(1.001)
    monkeypatch.setattr(module, "READ_S", 3600.0)  # who waited for it now would wait for ever
    assert [await kept.get("a") for _ in range(3)] == ["a:1"] * 3
    while not registry.under_way:
        await asyncio.sleep(0)
    assert registry.asked == 3, "one read for all"
    kept._beside["a"].cancel()
    await _looked(kept)
    monkeypatch.setattr(module, "READ_S", 0.01)
    registry.silent = False
    clock.move(0.001)
    assert await kept.get("a") == "a:1"
    await _looked(kept)
    assert [await kept.get("a"), registry.asked] == ["a:4", 4]
    clock.move(1.001)
    assert await kept.get("a") == "a:5"  # it answers: the newest is waited for again


async def test_what_was_kept_for_longer_is_not_served_unasked(kept: Any, registry: Registry, clock: HandClock) -> None:
    await kept.get("a")
    registry.silent = True
    clock.move(1.001)
    await kept.get("a")
    registry.silent = False
    clock.move(60.0)  # without a query, so nobody has asked meanwhile
    assert await kept.get("a") == "a:3"


async def test_a_namespace_that_is_gone_meanwhile_is_told_to_the_next(
    kept: Any, registry: Registry, clock: HandClock
) -> None:
    await kept.get("a")
    registry.silent = True
    clock.move(1.001)
    await kept.get("a")
    registry.silent, registry.gone = False, True
    clock.move(1.001)
    assert await kept.get("a") == "a:1"
    await _looked(kept)
    with pytest.raises(NotFound):
        await kept.get("a")
