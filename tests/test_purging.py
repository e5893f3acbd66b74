"""Purges are written with the change, and brought to the edge until it has acknowledged them, twice; on each database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from ragline.build import build
from ragline.clock import SystemClock
from ragline.connections.model_server import Busy
from ragline.errors import EngineUnavailable
from ragline.purging import PurgeWorker
from ragline.registry.edge_purges import EdgePurges
from ragline.settings import EdgeSettings, Settings
from ragline.system import System
from ragline.types import NamespaceSettings, SearchRequest, Upload
from tests.engines.postgres import Postgres
from tests.house import House

SETTINGS = EdgeSettings(purge_again_s=30.0, stuck_after_s=60.0)


class MovedClock:
    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class ToldEdge:
    """Keeps what it is told to drop; says no as long as there is something in `refuses`."""

    name = "told"

    def __init__(self) -> None:
        self.told: list[tuple[frozenset[str], str, int]] = []
        self.refuses: list[EngineUnavailable] = []

    def labels(self, keys: Sequence[str], *, namespace: str, visible: int) -> Mapping[str, str] | None:
        return {"Surrogate-Key": " ".join(keys)}

    async def purge(self, keys: Sequence[str], *, namespace: str, visible: int) -> None:
        if self.refuses:
            raise self.refuses.pop()
        self.told.append((frozenset(keys), namespace, visible))

    async def aclose(self) -> None:
        pass

    @property
    def keys(self) -> set[str]:
        return {key for keys, _, _ in self.told for key in keys}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
async def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    registry = ""
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        registry = await postgres.database()
    system = await build(Settings(data_dir=tmp_path_factory.mktemp("data"), registry=registry))
    yield system
    await system.aclose()


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def edge() -> ToldEdge:
    return ToldEdge()


@pytest.fixture
async def purges(house: House, clock: MovedClock) -> EdgePurges:
    """The outbox, with the namespace `default` public and nothing due."""
    system = house.system
    old = await system.namespaces.get("default")
    await system.namespaces.configure("default", replace(old.settings, public=True))
    await system.database.write(lambda c: c.exec_driver_sql("DELETE FROM edge_purges").rowcount)
    return EdgePurges(system.database, clock)


def worker(house: House, purges: EdgePurges, edge: ToldEdge | None, clock: MovedClock, **given: object) -> PurgeWorker:
    settings = SETTINGS.model_copy(update=given)
    return PurgeWorker(purges=purges, edge=edge, database=house.system.database, clock=clock, settings=settings)


async def uid(house: House) -> str:
    return (await house.system.namespaces.get("default")).uid


async def test_each_change_that_readers_see_is_purged_and_no_other(
    house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock
) -> None:
    work = worker(house, purges, edge, clock)
    document = await house.accept("a.txt", "One ship.")
    assert await work.round() == 0, "nobody sees it yet"
    key = f"d-{document.id}"

    async def purged() -> set[str]:
        for _ in range(2):  # the second time that of each, which is due later
            clock.at += 3600.0
            while await work.round():
                pass
        found, edge.told = edge.keys, []
        return found

    clock.at = house.system.clock.now()
    await house.work()
    assert await purged() == {key}, "live"
    await house.accept("a.txt", "One ship.")
    assert await purged() == set(), "unchanged"
    await house.accept("a.txt", "Two ships.")
    assert await purged() == set(), "the old content serves on"
    await house.work()
    assert await purged() == {key}, "the new one serves"
    await house.accept("a.txt", "Two ships.", groups=frozenset({"navy"}))
    assert await purged() == {key}, "closed at once"
    await house.work()
    assert await purged() == {key}, "its words are in the stores"
    await house.system.documents.delete("default", document.id)
    assert await purged() == {key}, "deleted"


async def test_a_private_namespace_writes_no_purges(house: House, clock: MovedClock) -> None:
    purges = EdgePurges(house.system.database, clock)
    before = await purges.left()
    await house.accept("a.txt", "One ship.")
    await house.work()
    await house.system.epochs.begin("default")
    await house.system.epochs.fill("default")
    assert await purges.left() == before


async def test_settings_cut_over_and_the_end_purge_the_whole_namespace(
    house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock
) -> None:
    work, system, id = worker(house, purges, edge, clock), house.system, await uid(house)

    async def purged() -> list[set[str]]:
        clock.at = system.clock.now() + 1.0
        await work.round()
        found, edge.told = [set(keys) for keys, _, _ in edge.told], []
        return found

    await system.epochs.begin("default")
    assert await purged() == []
    await system.epochs.fill("default")
    assert await purged() == [{f"n-{id}"}]
    settings = (await system.namespaces.get("default")).settings
    await system.namespaces.configure("default", replace(settings, candidates=20))
    assert await purged() == [{f"n-{id}"}]
    await system.namespaces.configure("default", replace(settings, public=False))
    assert await purged() == [{f"n-{id}"}], "it was public until then"
    await system.namespaces.configure("default", replace(settings, public=True))
    assert await purged() == []
    await system.namespaces.delete("default")
    assert await purged() == [{f"n-{id}"}]
    await system.epochs.create_namespace("default", NamespaceSettings())  # as the next test expects it


async def test_the_count_goes_with_it(house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock) -> None:
    await house.accept("a.txt", "One ship.")
    await house.work()
    clock.at = house.system.clock.now() + 1.0
    await worker(house, purges, edge, clock).round()
    namespace = await house.system.namespaces.get("default")
    assert [(at, count) for _, at, count in edge.told] == [(namespace.uid, namespace.visible)]


async def test_each_is_purged_again_when_nothing_can_be_on_its_way(
    house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock
) -> None:
    work = worker(house, purges, edge, clock)
    document = await house.accept("a.txt", "One ship.")
    await house.work()
    clock.at = house.system.clock.now() + 1.0
    assert await work.round() == 1
    assert (await purges.waiting()).count == 0, "acknowledged"
    clock.at += 29.0
    assert await work.round() == 0
    clock.at += 1.0
    assert await work.round() == 1
    assert [keys for keys, _, _ in edge.told] == [{f"d-{document.id}"}] * 2
    assert await purges.left() == 0
    clock.at += 1000.0
    assert await work.round() == 0


async def test_it_is_tried_until_the_edge_acknowledges(
    house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock
) -> None:
    work = worker(house, purges, edge, clock)
    await house.accept("a.txt", "One ship.")
    await house.work()
    clock.at = house.system.clock.now() + 1.0
    edge.refuses = [EngineUnavailable("gone", next_step="wait", engine="edge:told") for _ in range(12)]
    waits = []
    while not edge.told:
        start = clock.at
        while await work.round() == 0:
            clock.at += 0.25
        waits.append(clock.at - start)
    assert waits[:9] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert set(waits[9:]) == {60.0}
    assert len(edge.told) == 1
    assert (await purges.waiting()).count == 0


async def test_a_limit_is_honoured(house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock) -> None:
    work = worker(house, purges, edge, clock)
    await house.accept("a.txt", "One ship.")
    await house.work()
    clock.at = house.system.clock.now() + 1.0
    edge.refuses = [Busy("busy", next_step="wait", engine="edge:told", retry_after_s=17.0)]
    await work.round()
    clock.at += 16.0
    assert await work.round() == 0
    clock.at += 1.0
    assert await work.round() == 1
    assert len(edge.told) == 1


async def test_it_says_when_it_is_stuck_and_not_each_time(
    house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock
) -> None:
    work = worker(house, purges, edge, clock)
    await house.accept("a.txt", "One ship.")
    await house.work()
    clock.at = house.system.clock.now() + 1.0
    edge.refuses = [EngineUnavailable("gone", next_step="wait", engine="edge:told") for _ in range(100)]
    with capture_logs() as logs:
        await work.round()
        assert logs == [], "once is no trouble"
        for _ in range(3):
            clock.at += 61.0
            await work.round()
            await work.round()
    assert [line["log_level"] for line in logs] == ["error"] * 3
    assert logs[0]["waiting"] == 1
    assert logs[0]["next_step"] == "wait"


async def test_a_worker_that_dies_leaves_it_to_another(
    house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock
) -> None:
    await house.accept("a.txt", "One ship.")
    await house.work()
    clock.at = house.system.clock.now() + 1.0
    assert len(await purges.claim(most=10, lease_s=60.0, longest_s=600.0)) == 1
    work = worker(house, purges, edge, clock)
    assert await work.round() == 0
    clock.at += 60.0
    assert await work.round() == 1
    assert len(edge.told) == 1


async def test_a_clock_that_goes_back_puts_nothing_off(
    house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock
) -> None:
    await house.accept("a.txt", "One ship.")
    await house.work()
    clock.at = house.system.clock.now() - 86_400.0
    assert await worker(house, purges, edge, clock).round() == 1
    assert len(edge.told) == 1


async def test_many_changes_are_one_call(house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock) -> None:
    for number in range(30):
        await house.accept(f"{number}.txt", f"Ship {number}.")
    await house.work()
    clock.at = house.system.clock.now() + 1.0
    await worker(house, purges, edge, clock).round()
    assert [len(keys) for keys, _, _ in edge.told] == [30]


async def test_by_namespace_when_told(house: House, purges: EdgePurges, edge: ToldEdge, clock: MovedClock) -> None:
    await house.accept("a.txt", "One ship.")
    await house.work()
    clock.at = house.system.clock.now() + 1.0
    await worker(house, purges, edge, clock, purge_namespaces=True).round()
    assert edge.keys == {f"n-{await uid(house)}"}


async def test_without_an_edge_rows_go_when_nothing_can_be_stored_any_more(
    house: House, purges: EdgePurges, clock: MovedClock
) -> None:
    await house.accept("a.txt", "One ship.")
    await house.work()
    work = worker(house, purges, None, clock)
    clock.at = house.system.clock.now() + 300.0
    assert await work.round() == 0
    clock.at += 1000.0
    assert await work.round() == 1
    assert await purges.left() == 0


async def test_what_moves_while_it_is_searched_is_not_stored(house: House, purges: EdgePurges, edge: ToldEdge) -> None:
    from ragline.cold_tier import ColdTier
    from ragline.popularity.memory import MemoryPopularity

    system = house.system
    await house.accept("a.txt", "One ship.")
    await house.work()
    settings = SETTINGS.model_copy(update={"popular_after": 1})
    popularity = MemoryPopularity(system.clock)

    def tier(search: object) -> ColdTier:
        return ColdTier(
            search=search, purges=purges, edge=edge, popularity=popularity,  # type: ignore[arg-type]
            settings=settings, clock=SystemClock(),
        )  # fmt: skip

    request = SearchRequest(query="ship", namespace="default", groups=frozenset())
    assert (await tier(system.search).answer(request)).stored

    class Overtaken:
        async def search(self, request: SearchRequest) -> object:
            found = await system.search.search(request)
            await system.ingest.accept(
                await system.namespaces.get("default"), Upload("a.txt", b"One ship.", groups=frozenset({"navy"}))
            )
            return found

    overtaken = await tier(Overtaken()).answer(request)
    assert not overtaken.stored
    assert overtaken.headers == {"Cache-Control": "no-store"}
