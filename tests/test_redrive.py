"""What counts as stale, and what a re-drive does about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ragline import metrics
from ragline.redrive import MOST_TRIES, Redrive
from ragline.registry.claims import Claims
from ragline.registry.documents import Documents
from ragline.registry.staleness import Staleness
from ragline.system import System
from ragline.types import Document, State

from .clock import HandClock
from .house import House

AFTER_S, COOLDOWN_S = 900.0, 3600.0
BROKEN = b"%PDF-1.7 no more than this"


class Desk:
    """The registry of a house by a clock that the test moves."""

    def __init__(self, house: House) -> None:
        database, self.clock = house.system.database, HandClock(at=house.system.clock.now())
        self.claims = Claims(database, self.clock)
        self.staleness = Staleness(database, self.clock, stale_after_s=AFTER_S)
        documents = Documents(database, self.clock)
        self.redrive = Redrive(
            staleness=self.staleness, documents=documents, claims=self.claims, clock=self.clock, cooldown_s=COOLDOWN_S
        )

    async def done(self) -> list[str]:
        return [one.done for one in await self.redrive.run({"default"})]


@pytest.fixture
def desk(house: House) -> Desk:
    return Desk(house)


async def _behind(house: House) -> Document:
    """Served, and changed since: the new bytes wait."""
    await house.accept("a.txt", "Apples are red.")
    await house.work()
    return await house.accept("a.txt", "Apples are green.")


async def test_new_bytes_that_are_not_live_are_stale_after_their_time_and_no_sooner(house: House, desk: Desk) -> None:
    await _behind(house)
    assert (await desk.staleness.look()).stale == {"content": 0, "unverified": 0}
    desk.clock.move(AFTER_S + 1)
    look = await desk.staleness.look()
    assert (look.served, look.stale["content"]) == (1, 1)
    assert look.oldest_waiting_s > AFTER_S
    await house.work()
    look = await desk.staleness.look()
    assert (look.served, look.stale["content"], look.oldest_waiting_s) == (1, 0, 0.0)


async def test_bytes_that_change_again_and_again_do_not_hide_how_long_none_of_them_is_live(
    house: House, desk: Desk
) -> None:
    await _behind(house)
    move = "UPDATE history SET at = at - 1000 WHERE revision > 1"
    await house.system.database.write(lambda c: c.exec_driver_sql(move).rowcount)
    await house.accept("a.txt", "Apples are yellow.")
    assert (await desk.staleness.look()).stale["content"] == 1


async def test_what_never_served_is_not_stale_and_neither_are_the_same_bytes_parsed_again(
    house: House, desk: Desk
) -> None:
    document = await house.accept("a.txt", "Apples are red.")
    desk.clock.move(AFTER_S + 1)
    assert (await desk.staleness.look()).stale["content"] == 0
    await house.work()
    await house.system.documents.retry("default", document.id)
    desk.clock.move(AFTER_S + 1)
    assert await desk.done() == []


async def test_a_source_that_nobody_looks_at_makes_stale_by_the_namespace_s_limit(house: House, desk: Desk) -> None:
    namespace = await house.system.namespaces.get("default")
    await house.accept("a.txt", "Apples are red.")
    await house.work()
    desk.clock.move(500.0)
    assert (await desk.staleness.look()).stale["unverified"] == 0
    await house.system.namespaces.configure("default", replace(namespace.settings, verify_within_s=400.0))
    assert (await desk.staleness.look()).stale == {"content": 0, "unverified": 1}
    assert await desk.done() == ["unverified"]
    move = "UPDATE documents SET verified_at = verified_at + 500"  # as a sync does that finds it unchanged
    await house.system.database.write(lambda c: c.exec_driver_sql(move).rowcount)
    assert (await desk.staleness.look()).stale["unverified"] == 0


async def test_what_waits_for_its_next_attempt_is_due_at_once_and_rests_afterwards(house: House, desk: Desk) -> None:
    document = await _behind(house)
    desk.clock.move(AFTER_S + 1)
    assert await desk.done() == ["in line"]
    (claimed,) = await desk.claims.claim(most=1, lease_s=300.0)
    assert await desk.done() == ["held"]
    await desk.claims.release(claimed, after_s=5000.0, detail="the store is away")
    assert await desk.claims.claim(most=1, lease_s=300.0) == []
    before = metrics.REGISTRY.get_sample_value("stale_redrives_total", {"done": "driven"}) or 0.0
    assert await desk.done() == ["driven"]
    assert metrics.REGISTRY.get_sample_value("stale_redrives_total", {"done": "driven"}) == before + 1
    (claimed,) = await desk.claims.claim(most=1, lease_s=300.0)
    assert claimed.id == document.id
    await desk.claims.release(claimed, after_s=5000.0, detail="the store is still away")
    assert await desk.done() == ["resting"]
    desk.clock.move(COOLDOWN_S + 1)
    assert await desk.done() == ["driven"]


async def test_what_has_failed_is_parsed_again_so_many_times_and_no_more(house: House, desk: Desk) -> None:
    await house.accept("a.pdf", b"Apples are red.")
    await house.work_as_workers_do()
    document = await house.accept("a.pdf", BROKEN)
    await house.work_as_workers_do()
    assert (await house.look(document)).state is State.FAILED
    for _ in range(MOST_TRIES):
        desk.clock.move(COOLDOWN_S + 1)
        assert await desk.done() == ["parsed again"]
        await house.work_as_workers_do()
    desk.clock.move(COOLDOWN_S + 1)
    assert await desk.done() == ["used up"]
    await house.accept("a.pdf", BROKEN + b"!")
    await house.work_as_workers_do()
    desk.clock.move(COOLDOWN_S + 1)
    assert await desk.done() == ["parsed again"]


async def test_exactly_the_stale_ones_of_the_namespace_are_touched(house: House, desk: Desk, system: System) -> None:
    await _behind(house)
    other = await house.accept("b.txt", "Pears are green.")
    desk.clock.move(AFTER_S + 1)
    assert [one.stale.uri for one in await desk.redrive.run({"default"})] == ["a.txt"]
    assert await desk.redrive.run({"elsewhere"}) == []
    assert await desk.redrive.run(set()) == []
    story = [line.event for line in await system.documents.history(other.id)]
    assert story == ["created"]
