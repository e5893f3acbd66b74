"""A label that has served never serves again: caches hold answers under it."""

from __future__ import annotations

from ragline.registry.namespaces import _label
from ragline.types import SearchRequest
from tests.house import House

NOON = 1_685_620_800.0
"""2023-06-01, 12:00 UTC."""


def test_labels_of_a_day_count_up() -> None:
    assert _label(NOON, set()) == "v20230601"
    assert _label(NOON, {"v20230601"}) == "v20230601-2"
    assert _label(NOON, {"v20230601", "v20230601-2"}) == "v20230601-3"
    assert _label(NOON, {"v20230531", "v20230531-9"}) == "v20230601"


def test_the_labels_of_epochs_that_are_dropped_do_not_come_back() -> None:
    assert _label(NOON, {"v20230601-2"}) == "v20230601-3"
    assert _label(NOON, {"v20230601-9"}) == "v20230601-10"


async def test_each_cut_over_has_a_new_label_and_the_old_collections_go(house: House) -> None:
    """Also where each old epoch is dropped before the next is begun."""
    system = house.system
    await house.accept("a.txt", "One ship.")
    await house.work()
    seen = []
    for _ in range(3):
        old = (await system.namespaces.get("default")).epoch
        seen.append(old.label)
        assert old.vectors in await system.vectors.collections()
        await system.epochs.begin("default")
        await system.epochs.fill("default")
        await system.epochs.drop_retired()
        assert old.vectors in await system.vectors.collections(), "a query may still be reading it"
        await system.database.write(
            lambda c: c.exec_driver_sql("UPDATE epochs SET drop_after = 1 WHERE drop_after > 1").rowcount
        )
        await system.epochs.drop_retired()
        assert old.vectors not in await system.vectors.collections()
        assert old.keywords not in await system.keywords.collections()
        found = await system.search.search(SearchRequest(query="ship", namespace="default", groups=frozenset()))
        assert [passage.hit.uri for passage in found.passages] == ["a.txt"]
        seen.append(found.epoch)
    assert len(set(seen)) == 4
