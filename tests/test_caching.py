"""The cache before the query path: what is served from it still holds, whatever has happened meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cache.corpus import NAME, Corpus
from ragline.breaker import RUNNING
from ragline.caches.memory import MemoryCache
from ragline.caches.redis import RedisCache
from ragline.caching import cache_key, normalised, pipeline
from ragline.errors import EngineUnavailable, NotFound
from ragline.protocols import Cache
from ragline.settings import CacheSettings, GeneratorSettings, QuerySettings, RerankerSettings, Settings
from ragline.types import Fusion, Hit, Kept, NamespaceSettings, Retrieved, SearchRequest
from tests.clock import HandClock
from tests.engines.redis import Redis

BOARD, STAFF = frozenset({"board"}), frozenset({"staff"})
SETTINGS = CacheSettings(deadline_ms=60_000, audit_share=0.0)  # no test asserts on time


class Gated:
    """A cache in which the next write waits until it is let go."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.name = cache.name
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()

    def hold(self) -> None:
        self.reached.clear()
        self.go.clear()

    async def put(self, namespace: str, key: str, value: bytes, *, ttl_s: float) -> None:
        self.reached.set()
        await self.go.wait()
        await self.cache.put(namespace, key, value, ttl_s=ttl_s)

    async def check(self) -> None:
        await self.cache.check()

    async def get(self, namespace: str, key: str) -> Kept | None:
        return await self.cache.get(namespace, key)

    async def remove(self, namespace: str, key: str) -> None:
        await self.cache.remove(namespace, key)

    async def clear(self, namespace: str) -> int:
        return await self.cache.clear(namespace)

    async def size(self) -> int:
        return await self.cache.size()

    async def aclose(self) -> None:
        await self.cache.aclose()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest, clock: HandClock) -> Gated:
    if request.param == "memory":
        return Gated(MemoryCache(clock, entries=10_000, max_bytes=1 << 26))
    redis: Redis = request.getfixturevalue("redis")
    return Gated(RedisCache(redis.url(), entries=10_000))


@pytest.fixture
async def corpus(tmp_path: Path, clock: HandClock, cache: Gated) -> AsyncIterator[Corpus]:
    corpus = await Corpus.open(tmp_path, clock, cache, SETTINGS)
    yield corpus
    await corpus.aclose()


async def _asked(corpus: Corpus, query: str, **words: object) -> Retrieved:
    """And what is to be kept of it is kept."""
    found = await corpus.ask(query, **words)  # type: ignore[arg-type]
    assert corpus.tier
    await corpus.tier.written()
    return found


def _texts(found: Retrieved) -> list[str]:
    return [passage.hit.chunk.text for passage in found.passages]


async def test_a_popular_query_searches_once(corpus: Corpus, clock: HandClock) -> None:
    await corpus.update(["a", "b"])
    clock.move(2)
    first = await _asked(corpus, "a")
    again = [await _asked(corpus, "a") for _ in range(50)]
    assert not first.cached
    assert all(one.cached and one.passages == first.passages and one.degraded == () for one in again)
    assert all({"cache", "guard", "total"} == set(one.timings_ms) for one in again)
    assert corpus.words.searches == 1
    assert corpus.tier
    assert corpus.tier.counts == {("search", "miss"): 1, ("search", "hit"): 50}


async def test_a_change_elsewhere_leaves_an_entry_in_its_place(corpus: Corpus, clock: HandClock) -> None:
    await corpus.update(["a", "b"])
    clock.move(2)
    await _asked(corpus, "a")
    await corpus.update(["b", "c"])
    assert (await _asked(corpus, "a")).cached


async def test_its_time_ends(corpus: Corpus, clock: HandClock) -> None:
    await corpus.update(["a"])
    clock.move(2)
    await _asked(corpus, "a")
    clock.move(SETTINGS.ttl_s + 1)
    found = await _asked(corpus, "a")
    assert not found.cached
    assert corpus.words.searches == 2


async def test_a_new_document_is_missed_for_the_ttl_at_most_and_not_with_min_sequence(
    corpus: Corpus, clock: HandClock
) -> None:
    await corpus.update(["a"], found_by=["all"])
    clock.move(2)
    await _asked(corpus, "all", top_k=1)
    await corpus.update(["b"])
    corpus.words.documents["all"].insert(0, corpus.ids["b"])  # and it is the better one
    assert (await _asked(corpus, "all", top_k=1)).passages[0].hit.uri == "a"
    now = await corpus.namespaces.get(NAME)
    found = await _asked(corpus, "all", top_k=1, min_sequence=now.sequence)
    assert (found.cached, found.passages[0].hit.uri) == (False, "b")
    found = await _asked(corpus, "all", top_k=1, min_sequence=now.sequence)
    assert (found.cached, found.passages[0].hit.uri) == (True, "b"), "what is kept is as new as that"
    assert found.sequence >= now.sequence


async def test_where_there_was_room_a_new_document_is_seen_at_once(corpus: Corpus, clock: HandClock) -> None:
    assert (await _asked(corpus, "all", top_k=5)).passages == ()
    assert (await _asked(corpus, "all", top_k=5)).cached, "nothing has moved"
    await corpus.update(["a"], found_by=["all"])
    clock.move(2)
    assert _texts(await _asked(corpus, "all", top_k=5)) == ["a 1"]
    assert (await _asked(corpus, "all", top_k=5)).cached
    await corpus.update(["b"], found_by=["all"])
    assert len((await _asked(corpus, "all", top_k=5)).passages) == 2


async def _before_the_store(corpus: Corpus, cache: Gated, change: Callable[[], Awaitable[None]]) -> None:
    """A query that has read its snapshot, but not the store."""
    reached, go = asyncio.Event(), asyncio.Event()
    real = corpus.words.search

    async def search(*args: object, **words: object) -> object:
        reached.set()
        await go.wait()
        return await real(*args, **words)  # type: ignore[arg-type]

    corpus.words.search = search  # type: ignore[method-assign, assignment]
    query = asyncio.create_task(_asked(corpus, "a"))
    await reached.wait()
    corpus.words.search = real  # type: ignore[method-assign]
    await change()
    go.set()
    await query


async def _before_the_guard(corpus: Corpus, cache: Gated, change: Callable[[], Awaitable[None]]) -> None:
    """A query that has read the store, but not the guard's rows."""
    reached, go = asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        reached.set()
        await go.wait()

    corpus.words.pause = pause
    query = asyncio.create_task(_asked(corpus, "a"))
    await reached.wait()
    corpus.words.pause = _none
    await change()
    go.set()
    await query


async def _none() -> None: ...


async def _before_the_write(corpus: Corpus, cache: Gated, change: Callable[[], Awaitable[None]]) -> None:
    """A query that has its passages, and has shown them, but not kept them."""
    cache.hold()
    corpus.snapshots.forget(NAME)  # else it may be older than the last change, and nothing is kept
    query = asyncio.create_task(_asked(corpus, "a"))
    await cache.reached.wait()
    await change()
    cache.go.set()
    await query


@pytest.mark.parametrize("paused", [_before_the_write, _before_the_guard, _before_the_store])
async def test_a_query_paused_the_document_updated_the_query_resumed_the_next_read_is_new(
    corpus: Corpus, cache: Gated, clock: HandClock, paused: Callable[..., Awaitable[None]]
) -> None:
    """A thousand times before the write, on each cache."""
    rounds = 1_000 if paused is _before_the_write else 100
    await corpus.update(["a"])
    served = 0
    for n in range(rounds):
        clock.move((0.0, 0.4, 2.0)[n % 3])  # snapshots of any age
        if n % 3 == 0:
            corpus.snapshots.forget(NAME)
        assert corpus.tier
        await corpus.tier.cache.clear((await corpus.namespaces.get(NAME)).uid)
        await paused(corpus, cache, lambda: corpus.update(["a"]))
        clock.move(2.0 * (n % 2))  # else the snapshot is older than the change, and nothing is kept
        found = await _asked(corpus, "a")
        assert await corpus.wrong(found) == {}, n
        assert _texts(found) == [f"a {(await corpus.document('a')).content}"], n
        again = await _asked(corpus, "a")
        assert again.passages == found.passages
        served += again.cached
    assert served > rounds / 4, "a test of a cache that keeps nothing proves nothing"


@pytest.mark.parametrize("paused", [_before_the_write, _before_the_guard, _before_the_store])
async def test_groups_revoked_while_a_query_is_paused(
    corpus: Corpus, cache: Gated, clock: HandClock, paused: Callable[..., Awaitable[None]]
) -> None:
    await corpus.update(["a"], groups=BOARD)
    real = corpus.ask
    corpus.ask = lambda query, **words: real(query, groups=BOARD, **words)  # type: ignore[method-assign]
    for n in range(30):
        assert corpus.tier
        await corpus.tier.cache.clear((await corpus.namespaces.get(NAME)).uid)
        clock.move((0.0, 0.4, 2.0)[n % 3])
        await paused(corpus, cache, lambda: corpus.reword("a", groups=STAFF))
        assert (await _asked(corpus, "a")).passages == ()
        assert (await _asked(corpus, "a")).passages == ()
        await corpus.reword("a", groups=BOARD)
        await corpus.work()
        clock.move(2)
        assert _texts(await _asked(corpus, "a")) == ["a 1"]


async def test_groups_revoked_reach_a_cached_result_at_once(corpus: Corpus, clock: HandClock) -> None:
    await corpus.update(["a"], groups=BOARD, found_by=["all"])
    await corpus.update(["b"], found_by=["all"])
    clock.move(2)
    await _asked(corpus, "all", top_k=2, groups=BOARD)
    assert (await _asked(corpus, "all", top_k=2, groups=BOARD)).cached
    await corpus.reword("a", groups=STAFF)
    assert [passage.hit.uri for passage in (await _asked(corpus, "all", top_k=2, groups=BOARD)).passages] == ["b"]
    await corpus.work()
    assert [passage.hit.uri for passage in (await _asked(corpus, "all", top_k=2, groups=BOARD)).passages] == ["b"]


async def test_callers_of_other_groups_never_share_an_entry(corpus: Corpus, clock: HandClock) -> None:
    await corpus.update(["a"], groups=BOARD)
    clock.move(2)
    assert _texts(await _asked(corpus, "a", groups=BOARD)) == ["a 1"]
    assert _texts(await _asked(corpus, "a", groups=STAFF)) == []
    assert _texts(await _asked(corpus, "a")) == []
    assert (await _asked(corpus, "a", groups=BOARD)).cached


async def test_a_deleted_document_is_not_served(corpus: Corpus, clock: HandClock) -> None:
    await corpus.update(["a"], found_by=["all"])
    await corpus.update(["b"], found_by=["all"])
    clock.move(2)
    await _asked(corpus, "all", top_k=2)
    await corpus.documents.delete(NAME, corpus.ids["a"])
    found = await _asked(corpus, "all", top_k=2)
    assert [passage.hit.uri for passage in found.passages] == ["b"]


async def test_a_new_title_is_seen_once_it_has_reached_the_store(corpus: Corpus, clock: HandClock) -> None:
    await corpus.update(["a"], title="Old")
    clock.move(2)
    await _asked(corpus, "a")
    await corpus.reword("a", title="New")
    before = await _asked(corpus, "a")  # kept while the store still holds the old one
    assert before.passages[0].hit.title == "Old"
    await corpus.work()
    assert (await _asked(corpus, "a")).passages[0].hit.title == "New"


async def test_a_title_that_changes_under_a_search_is_not_kept(corpus: Corpus, cache: Gated, clock: HandClock) -> None:
    await corpus.update(["a"], title="Old")
    clock.move(2)

    async def change() -> None:
        await corpus.reword("a", title="New")
        await corpus.work()

    await _before_the_guard(corpus, cache, change)
    assert (await _asked(corpus, "a")).passages[0].hit.title == "New"


async def test_forgetting_a_document(corpus: Corpus, clock: HandClock) -> None:
    await corpus.update(["a", "b"])
    clock.move(2)
    for query in ("a", "b"):
        await _asked(corpus, query)
    before = await corpus.namespaces.get(NAME)
    await corpus.documents.forget_cached(NAME, corpus.ids["a"])
    after = await corpus.namespaces.get(NAME)
    assert after.visible > before.visible
    assert not (await _asked(corpus, "a")).cached
    assert (await _asked(corpus, "b")).cached
    assert await corpus.claims.claim(most=10, lease_s=60) == [], "it is as it was: nothing is due"
    await corpus.reword("a", title="New")  # due, and not done
    clock.move(2)
    await _asked(corpus, "a")
    assert (await _asked(corpus, "a")).cached
    await corpus.documents.forget_cached(NAME, corpus.ids["a"])
    assert not (await _asked(corpus, "a")).cached
    await corpus.work()
    assert (await corpus.document("a")).settled == (await corpus.document("a")).revision
    with pytest.raises(NotFound):
        await corpus.documents.forget_cached(NAME, "unknown")


async def test_a_namespace_made_anew_under_its_name_has_nothing_of_the_old_one(
    corpus: Corpus, clock: HandClock
) -> None:
    await corpus.update(["a"])
    clock.move(2)
    await _asked(corpus, "a")
    assert (await _asked(corpus, "a")).cached
    await corpus.namespaces.delete(NAME)
    old = await corpus.snapshots.get(NAME)  # still kept, as in another process
    epoch = await corpus.namespaces.plan_epoch(NAME, old.epoch.space, {})
    await corpus.namespaces.create(NamespaceSettings(), epoch)
    for _ in range(old.visible):
        await corpus.namespaces.configure(NAME, NamespaceSettings())
    assert (await corpus.namespaces.get(NAME)).visible == old.visible, "even where the counts are equal"
    assert (await _asked(corpus, "a")).passages == ()


@pytest.mark.parametrize("fault", ["degraded", "guard"])
async def test_what_is_degraded_is_not_kept(
    corpus: Corpus, clock: HandClock, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    await corpus.update(["a"])
    clock.move(2)
    await corpus.snapshots.get(NAME)
    real = corpus.query.search

    async def degraded(request: SearchRequest) -> Retrieved:
        return replace(await real(request), degraded=("rerank",))

    async def away(*_: object, **__: object) -> object:
        raise EngineUnavailable("It is away.", next_step="Wait.", engine="registry")

    if fault == "degraded":
        monkeypatch.setattr(corpus.query, "search", degraded)
    else:
        monkeypatch.setattr(corpus.guard, "look", away)
    assert (await _asked(corpus, "a")).degraded
    monkeypatch.undo()
    assert corpus.tier
    assert await corpus.tier.cache.size() == 0
    assert not (await _asked(corpus, "a")).cached


async def test_with_the_registry_away_nothing_is_served_that_nobody_can_check(
    corpus: Corpus, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await corpus.update(["a"], groups=BOARD)
    clock.move(2)
    await _asked(corpus, "a", groups=BOARD)

    async def away(*_: object, **__: object) -> object:
        raise EngineUnavailable("It is away.", next_step="Wait.", engine="registry")

    monkeypatch.setattr(corpus.guard, "look", away)
    found = await _asked(corpus, "a", groups=BOARD)
    assert (found.passages, found.degraded, found.cached) == ((), ("guard",), False)
    assert corpus.tier
    assert corpus.tier.counts["search", "unchecked"] == 1


async def test_with_every_leg_down_an_expired_entry_that_holds_is_served_and_marked(
    corpus: Corpus, clock: HandClock
) -> None:
    await corpus.update(["a"])
    clock.move(2)
    await _asked(corpus, "a")
    clock.move(SETTINGS.ttl_s + 1)
    away = EngineUnavailable("It is away.", next_step="Wait.", engine="keyword")

    async def down(*_: object, **__: object) -> list[Hit]:
        raise away

    async def late() -> None:
        await asyncio.Event().wait()

    assert corpus.tier
    for _ in range(RUNNING):
        corpus.tier.breaker.failed(TimeoutError(), late)
    assert corpus.tier.rests, "it was late, and is asked all the same"
    corpus.words.search = down  # type: ignore[method-assign]
    found = await corpus.ask("a")
    assert (_texts(found), found.cached, found.degraded) == (["a 1"], True, ("expired",))
    with pytest.raises(EngineUnavailable):
        await corpus.ask("a", min_sequence=1)
    with pytest.raises(EngineUnavailable):
        await corpus.ask("b")
    await corpus.update(["a"])
    with pytest.raises(EngineUnavailable):
        await corpus.ask("a")


async def test_one_that_joins_a_search_is_not_shown_what_changed_before_it_came(
    corpus: Corpus, clock: HandClock
) -> None:
    """The search has looked at the guard's rows and is about to end when the groups change; then the caller comes."""
    await corpus.update(["a"], groups=BOARD)
    reached, go = asyncio.Event(), asyncio.Event()
    real = corpus.query.search

    async def slow(request: SearchRequest) -> Retrieved:
        found = await real(request)
        reached.set()
        await go.wait()
        return found

    corpus.query.search = slow  # type: ignore[method-assign]
    first = asyncio.create_task(corpus.ask("a", groups=BOARD))
    await reached.wait()
    await corpus.reword("a", groups=STAFF)
    second = asyncio.create_task(corpus.ask("a", groups=BOARD))
    await asyncio.sleep(0)
    go.set()
    assert _texts(await first) == ["a 1"], "it was readable when the query came"
    assert (await second).passages == ()


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_that_a_result_depends_on_is_in_the_key(corpus: Corpus) -> None:
    namespace = await corpus.namespaces.get(NAME)
    request = SearchRequest("query", NAME, BOARD, 5, {"year": {"gte": 3, "lte": 4}})
    settings = namespace.settings
    others = [
        ("answer", namespace, request, "p"),
        ("search", namespace, request, "q"),
        *(
            ("search", one, request, "p")
            for one in (
                replace(namespace, uid="other"),
                replace(namespace, epoch=replace(namespace.epoch, label="v2")),
                replace(namespace, foreign=True),
                replace(namespace, settings=replace(settings, candidates=7)),
                replace(namespace, settings=replace(settings, fusion=Fusion("convex"))),
                replace(namespace, settings=replace(settings, fusion=Fusion("rrf", {"keyword": 2.0, "dense": 1.0}))),
            )
        ),
        *(
            ("search", namespace, one, "p")
            for one in (
                replace(request, query="other"), replace(request, query="Query"), replace(request, groups=STAFF),
                replace(request, groups=BOARD | STAFF), replace(request, top_k=6),
                replace(request, filters={"year": {"gte": 3}}), replace(request, filters={"year": [3, 4]}),
                replace(request, legs=("dense",)), replace(request, distinct="document"),
            )
        ),
    ]  # fmt: skip
    keys = {cache_key(*one) for one in [("search", namespace, request, "p"), *others]}  # type: ignore[arg-type]
    assert len(keys) == len(others) + 1
    same = replace(request, query="  query\n", filters={"year": {"lte": 4, "gte": 3}}, min_sequence=7)
    assert cache_key("search", namespace, same, "p") == cache_key("search", namespace, request, "p")
    moved = replace(namespace, sequence=99, visible=99, settled=99)
    assert cache_key("search", moved, request, "p") == cache_key("search", namespace, request, "p")


def test_settings_that_change_results_change_the_pipeline(tmp_path: Path) -> None:
    def of(**words: object) -> str:
        return pipeline(Settings(data_dir=tmp_path, **words))  # type: ignore[arg-type]

    others = [
        of(query=QuerySettings(candidates=60)),
        of(query=QuerySettings(context_tokens=100)),
        of(reranker=RerankerSettings(url="tei+http://one")),
        of(reranker=RerankerSettings(candidates=21)),
        of(generators=(GeneratorSettings(url="http://one/v1", model="m"),)),
        of(generators=(GeneratorSettings(url="http://one/v1", model="n"),)),
    ]
    assert len({of(), *others}) == len(others) + 1
    assert of(query=QuerySettings(deadline_ms=77)) == of()


def test_queries_are_equal_but_for_white_space_and_how_accents_are_written() -> None:
    assert normalised("  who\tkeeps \n bees ") == "who keeps bees"
    assert normalised("cafe\u0301") == normalised("caf\u00e9")
    assert normalised("Bees") != normalised("bees")
