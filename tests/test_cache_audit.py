"""The auditor finds what a cache should not have served, and takes nothing else for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.cache.corpus import NAME, Corpus
from ragline import caching, metrics
from ragline.caches.memory import MemoryCache
from ragline.settings import CacheSettings
from ragline.types import Retrieved
from tests.clock import HandClock

BOARD, STAFF = frozenset({"board"}), frozenset({"staff"})


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def corpus(tmp_path: Path, clock: HandClock) -> AsyncIterator[Corpus]:
    settings = CacheSettings(audit_share=1.0)
    cache = MemoryCache(clock, entries=100, max_bytes=1 << 20)
    corpus = await Corpus.open(tmp_path, clock, cache, settings, draw=lambda: 0.5)
    await corpus.update(["a"], groups=BOARD, found_by=["all"])
    clock.move(5)
    yield corpus
    await corpus.aclose()


async def _asked(corpus: Corpus, query: str = "a") -> Retrieved:
    found = await corpus.ask(query, groups=BOARD)
    assert corpus.tier
    await corpus.tier.written()
    await corpus.audit.done()
    return found


async def _wrong() -> float:
    return float(metrics.cache_wrong_total._value.get())


async def test_a_hit_that_is_right_is_the_same_when_searched_again(corpus: Corpus) -> None:
    before = await _wrong()
    await _asked(corpus)
    assert corpus.audit.verdicts == {}, "a miss is not audited"
    assert (await _asked(corpus)).cached
    assert corpus.audit.verdicts == {"same": 1}
    assert await _wrong() == before


async def test_a_new_document_that_is_missed_is_not_wrong(corpus: Corpus, clock: HandClock) -> None:
    await _asked(corpus, "all")
    await corpus.update(["b"])
    corpus.words.documents["all"].insert(0, corpus.ids["b"])
    clock.move(5)
    before = await _wrong()
    assert (await _asked(corpus, "all")).cached
    assert corpus.audit.verdicts == {"moved": 1}
    assert await _wrong() == before


async def test_another_ranking_of_the_same_is_told(corpus: Corpus) -> None:
    await _asked(corpus, "all")
    corpus.words.documents["all"] = []
    assert (await _asked(corpus, "all")).cached
    assert corpus.audit.verdicts == {"differs": 1}


@pytest.mark.parametrize("change", ["bytes", "groups", "deleted"])
async def test_a_cache_that_serves_anything_is_found_out(
    corpus: Corpus, clock: HandClock, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(caching, "holds", lambda *_, **__: True)
    await _asked(corpus)
    if change == "bytes":
        await corpus.update(["a"], groups=BOARD)
    elif change == "groups":
        await corpus.reword("a", groups=STAFF)
    else:
        await corpus.documents.delete(NAME, corpus.ids["a"])
    clock.move(5)
    before = await _wrong()
    assert (await _asked(corpus)).cached
    assert corpus.audit.verdicts == {"wrong": 1}
    assert await _wrong() == before + 1


async def test_what_changed_after_the_query_came_is_not_wrong(corpus: Corpus, clock: HandClock) -> None:
    served = await _asked(corpus)
    asked_at = clock.now()
    clock.move(5)
    await corpus.update(["a"], groups=BOARD)
    await corpus.reword("a", groups=STAFF)
    assert set((await corpus.audit._faults(served.passages, BOARD, asked_at)).values()) == {"moved"}
    assert set((await corpus.audit._faults(served.passages, BOARD, clock.now() + 5)).values()) == {"wrong"}


async def test_its_share_is_kept_and_one_runs_at_a_time(corpus: Corpus) -> None:
    await _asked(corpus)
    searched = corpus.words.searches
    corpus.audit._share = 0.5  # draws are 0.5
    await _asked(corpus)
    assert corpus.words.searches == searched
    corpus.audit._share = 1.0
    for _ in range(5):
        await corpus.ask("a", groups=BOARD)
    await corpus.audit.done()
    assert corpus.words.searches < searched + 5
