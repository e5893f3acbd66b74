"""What keyword indexes and vector stores promise alike. Not used alone: see `keywords` and `vectors` beside it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import ClassVar, Generic, TypeVar

import pytest
import pytest_asyncio

from ragline.errors import EngineRejected, EngineUnavailable
from ragline.filters import matches
from ragline.protocols import KeywordIndex, VectorStore
from ragline.testing.corpus import chunk_ids, crowd, record, texts, varied
from ragline.types import AnyOf, Between, Condition, Hit, Record, Scope

EVERYBODY = Scope()
EngineT = TypeVar("EngineT", bound=KeywordIndex | VectorStore)

SCOPES: tuple[tuple[Condition, ...], ...] = (
    (),
    (AnyOf("kind", ("report",)),),
    (AnyOf("kind", ("report", "memo", "absent")),),
    (AnyOf("kind", ("",)),),
    (AnyOf("kind", ("absent",)),),
    (AnyOf("year", (2020,)),),
    (AnyOf("year", (2023, -(2**63))),),
    (AnyOf("year", (2**53,)),),
    (Between("year", 0, 2022),),
    (Between("year", None, -3),),
    (Between("year", 2020, None),),
    (AnyOf("rating", (0.0, -2.25)),),
    (Between("rating", -3.0, 0.5),),
    (Between("rating", 2.0, None),),
    (AnyOf("draft", (True,)),),
    (AnyOf("draft", (False,)),),
    (AnyOf("draft", (True, False)),),
    (AnyOf("published", (1_685_620_800_123,)),),
    (Between("published", -1, 1_577_836_800_000),),
    (AnyOf("Ursprungsland, größtes", ("Österreich",)),),
    (AnyOf("kind", ("report",)), Between("year", 2000, 2030), AnyOf("draft", (True,))),
    (Between("year", 0, 2022), Between("year", 2023, None)),
)


class StoreContract(Generic[EngineT]):
    """The promises that need no knowledge of how a text is searched for."""

    LEFT_WITHIN_S: ClassVar[float] = 60.0
    """For a client's own clean-up after a cancelled call. Nothing is asserted about how long it takes."""

    @pytest.fixture
    def connect(self) -> Callable[[], EngineT]:
        """Yours: a function that opens the adapter, each time on the same data."""
        raise NotImplementedError

    async def create(self, engine: EngineT, collection: str) -> None:
        raise NotImplementedError

    async def upsert(self, engine: EngineT, collection: str, records: Sequence[Record]) -> None:
        raise NotImplementedError

    async def search(
        self, engine: EngineT, collection: str, text: str, *, top_k: int = 10, scope: Scope = EVERYBODY
    ) -> list[Hit]:
        raise NotImplementedError

    def at_work(self) -> set[asyncio.Task[object]]:
        """Tasks that a cancelled call may not leave behind. Without those of a server that your tests run in the same loop."""
        return asyncio.all_tasks()

    @pytest_asyncio.fixture
    async def engine(self, connect: Callable[[], EngineT]) -> AsyncIterator[EngineT]:
        engine = connect()
        yield engine
        await engine.aclose()

    @pytest_asyncio.fixture
    async def collection(self, engine: EngineT) -> AsyncIterator[str]:
        name = f"contract-{uuid.uuid4().hex}"
        await self.create(engine, name)
        yield name
        await engine.drop(name)

    # ── collections ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_creating_twice_keeps_what_is_there(self, engine: EngineT, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", "common")])
        await self.create(engine, collection)
        assert texts(await self.search(engine, collection, "common")) == ["common"]

    async def test_an_empty_collection_answers_with_nothing(self, engine: EngineT, collection: str) -> None:
        assert await self.search(engine, collection, "common") == []
        assert await engine.contents(collection) == {}

    async def test_drop_removes_all_of_it(self, engine: EngineT, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", "common")])
        assert collection in await engine.collections()
        await engine.drop(collection)
        await engine.drop(collection)
        assert collection not in await engine.collections()
        await self.create(engine, collection)
        assert await self.search(engine, collection, "common") == []

    async def test_an_unknown_collection_is_refused_with_a_next_step(self, engine: EngineT) -> None:
        missing = f"contract-{uuid.uuid4().hex}"
        for call in (
            self.search(engine, missing, "common"),
            self.upsert(engine, missing, [record("a", "common")]),
            engine.update_payload(missing, "a", title="t", groups=frozenset(), fields={}),
            engine.delete(missing, {"a": 1}),
            engine.contents(missing),
        ):
            with pytest.raises(EngineRejected) as refused:
                await call
            assert missing in refused.value.message
            assert refused.value.next_step
        assert missing not in await engine.collections()

    # ── writes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_hit_carries_the_whole_record(self, engine: EngineT, collection: str) -> None:
        one = record("a", "common\n  line  two\t" + "word " * 2_000, content=2**40, title="On «words»")
        bare = replace(one, chunk=replace(one.chunk, id=str(uuid.uuid4()), page=None, headings=(), ordinal=1))
        await self.upsert(engine, collection, [one, bare])
        hits = {hit.chunk.id: hit for hit in await self.search(engine, collection, "common")}
        for each in (one, bare):
            hit = hits[each.chunk.id]
            assert (hit.chunk, hit.uri, hit.title, dict(hit.ranks)) == (each.chunk, each.uri, each.title, {})

    async def test_upserting_again_changes_nothing(self, engine: EngineT, collection: str) -> None:
        records = [record("a", f"common word{n}", ordinal=n) for n in range(20)]
        await self.upsert(engine, collection, records)
        await self.upsert(engine, collection, records)
        await self.upsert(engine, collection, [*records[:3], *records[:3]])
        assert await engine.contents(collection) == {("a", 1): 20}
        hits = await self.search(engine, collection, "common", top_k=50)
        assert sorted(chunk_ids(hits)) == sorted(one.chunk.id for one in records)

    async def test_a_record_is_replaced_by_its_id(self, engine: EngineT, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", "common old"), record("b", "common other")])
        await self.upsert(engine, collection, [record("a", "common new")])
        assert sorted(texts(await self.search(engine, collection, "common old new"))) == ["common new", "common other"]

    async def test_writing_nothing_is_no_error(self, engine: EngineT, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", "common")])
        await engine.delete(collection, {})
        await engine.delete(collection, {"unknown": 9})
        await engine.update_payload(collection, "unknown", title="t", groups=frozenset(), fields={})
        assert await engine.contents(collection) == {("a", 1): 1}

    async def test_delete_removes_only_older_contents(self, engine: EngineT, collection: str) -> None:
        rows = [
            record(d, f"common {d} v{c} w{n}", content=c, ordinal=n) for d in "ab" for c in (3, 5, 9) for n in (0, 1)
        ]
        await self.upsert(engine, collection, rows)
        await engine.delete(collection, {"a": 9, "b": 5})
        assert await engine.contents(collection) == {("a", 9): 2, ("b", 5): 2, ("b", 9): 2}
        found = await self.search(engine, collection, "common", top_k=20)
        assert {(hit.chunk.document, hit.chunk.content) for hit in found} == {("a", 9), ("b", 5), ("b", 9)}

    async def test_an_old_content_that_comes_late_can_be_removed_again(self, engine: EngineT, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", "common new", content=7)])
        await engine.delete(collection, {"a": 7})
        await self.upsert(engine, collection, [record("a", "common late", content=4)])
        await engine.delete(collection, {"a": 7})
        assert texts(await self.search(engine, collection, "common late new")) == ["common new"]

    async def test_a_new_payload_keeps_everything_else(self, engine: EngineT, collection: str) -> None:
        mine = [record("a", f"common word{n}", ordinal=n, fields={"year": 1}) for n in range(150)]
        await self.upsert(engine, collection, [*mine, record("b", "common other", fields={"year": 1})])
        before = {hit.chunk.id: hit for hit in await self.search(engine, collection, "common word7", top_k=200)}
        await engine.update_payload(
            collection, "a", title="New", groups=frozenset({"staff"}), fields={"year": (2, 3), "kind": "memo"}
        )
        assert texts(await self.search(engine, collection, "common word7", top_k=200)) == ["common other"]
        for condition in (Between("year", 3, 3), AnyOf("kind", ("memo",))):
            scope = Scope(frozenset({"staff"}), (condition,))
            after = await self.search(engine, collection, "common word7", top_k=200, scope=scope)
            assert len(after) == 150
            for hit in after:
                assert hit == replace(before[hit.chunk.id], title="New", score=hit.score)
        assert await engine.contents(collection) == {("a", 1): 150, ("b", 1): 1}

    async def test_a_large_batch_goes_in_whole(self, engine: EngineT, collection: str) -> None:
        """However an engine limits a request: the adapter cuts, and all of it is there when the call returns."""
        rows = [record(f"d{n // 100}", f"common word{n} " + "filler " * 100, ordinal=n % 100) for n in range(5_000)]
        await self.upsert(engine, collection, rows)
        assert await engine.contents(collection) == {(f"d{n}", 1): 100 for n in range(50)}

    # ── scopes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("groups", [(), ("staff",), ("board", "nobody"), ("staff", "everyone")])
    async def test_every_scope_is_the_reference_scope(
        self, engine: EngineT, collection: str, groups: tuple[str, ...]
    ) -> None:
        records = varied()
        await self.upsert(engine, collection, records)
        for conditions in SCOPES:
            scope = Scope(frozenset(groups), conditions)
            found = await self.search(engine, collection, "common", top_k=100, scope=scope)
            expected = [one.chunk.id for one in records if matches(one.fields, one.groups, scope)]
            assert sorted(chunk_ids(found)) == sorted(expected), scope

    async def test_a_scope_does_not_move_scores(self, engine: EngineT, collection: str) -> None:
        await self.upsert(engine, collection, varied())
        scope = Scope(
            frozenset({"staff", "everyone"}), (Between("year", None, None), AnyOf("kind", ("report", "memo")))
        )
        wide = Scope(frozenset({"staff", "everyone"}))
        scores = {h.chunk.id: h.score for h in await self.search(engine, collection, "common", top_k=99, scope=wide)}
        for hit in await self.search(engine, collection, "common", top_k=99, scope=scope):
            assert hit.score == pytest.approx(scores[hit.chunk.id], rel=1e-4)

    async def test_small_groups_in_a_large_collection(self, engine: EngineT, collection: str) -> None:
        """A group that sees 0.1 % of the chunks gets all it should, and nothing else."""
        records = crowd(10_000, groups=2_000)
        for at in range(0, len(records), 1_000):
            await self.upsert(engine, collection, records[at : at + 1_000])
        readers = {one.chunk.id: one.groups for one in records}
        due = found = 0
        for number in range(0, 2_000, 80):
            scope = Scope(frozenset({f"group-{number}"}), (Between("year", 1900, 1999),))
            allowed = {chunk_id for chunk_id, groups in readers.items() if not groups.isdisjoint(scope.groups)}
            ids = chunk_ids(await self.search(engine, collection, "common", top_k=10, scope=scope))
            assert set(ids) <= allowed
            due, found = due + min(10, len(allowed)), found + len(ids)
        assert found >= 0.99 * due

    async def test_any_unicode_is_kept(self, engine: EngineT, collection: str) -> None:
        strange = "Straße 東京 \U0001f600 e\u0301 שלום 'quoted\" \\ % _ {}"
        rows = [
            record(strange, f"common {strange}", title=strange, groups={strange}, fields={"kind": strange}),
            record(strange + "x", "common plain"),
        ]
        await self.upsert(engine, collection, rows)
        scope = Scope(frozenset({strange}), (AnyOf("kind", (strange,)),))
        (hit,) = await self.search(engine, collection, "common", scope=scope)
        assert (hit.chunk, hit.title, hit.uri) == (rows[0].chunk, rows[0].title, rows[0].uri)
        await engine.delete(collection, {strange: 2})
        assert await engine.contents(collection) == {(strange + "x", 1): 1}

    # ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_more_than_there_is_may_be_asked_for(self, engine: EngineT, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", f"common word{n}", ordinal=n) for n in range(3)])
        assert len(await self.search(engine, collection, "common", top_k=1_000)) == 3

    async def test_hits_come_best_first_and_fewer_are_the_first_of_more(self, engine: EngineT, collection: str) -> None:
        rows = [record("a", " ".join(["common", *(f"word{n % k}" for k in range(2, 6))]), ordinal=n) for n in range(60)]
        await self.upsert(engine, collection, rows)
        hits = await self.search(engine, collection, "common word1 word3", top_k=40)
        assert [(-hit.score, hit.chunk.id) for hit in hits] == sorted((-hit.score, hit.chunk.id) for hit in hits)
        assert await self.search(engine, collection, "common word1 word3", top_k=7) == hits[:7]

    async def test_ties_go_by_chunk_id(self, engine: EngineT, collection: str) -> None:
        rows = [record(f"document-{n}", "common twin") for n in range(60)]
        first = sorted(one.chunk.id for one in rows)[:10]
        for order in (rows, rows[::-1], rows[30:] + rows[:30]):
            for at in range(0, len(order), 20):
                await self.upsert(engine, collection, order[at : at + 20])
            assert chunk_ids(await self.search(engine, collection, "common twin")) == first

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_writers_and_readers_at_once(self, engine: EngineT, collection: str) -> None:
        async def write(writer: int) -> None:
            for batch in range(5):
                rows = [record(f"w{writer}-{batch}", f"common w{writer}", ordinal=n) for n in range(10)]
                await self.upsert(engine, collection, rows)
                held = await engine.contents(collection)
                assert held[f"w{writer}-{batch}", 1] == 10
                await engine.delete(collection, {f"w{writer}-{batch - 1}": 2})

        async def read() -> None:
            for _ in range(20):
                hits = await self.search(engine, collection, "common", top_k=50)
                assert len(set(chunk_ids(hits))) == len(hits)

        await asyncio.gather(*(write(n) for n in range(6)), *(read() for _ in range(6)))
        assert await engine.contents(collection) == {(f"w{n}-4", 1): 10 for n in range(6)}

    async def test_a_cancelled_write_leaves_a_sound_store(self, engine: EngineT, collection: str) -> None:
        """Wherever it was cancelled, from before its first turn to after the engine has it: the same write again is the
        whole of it, none doubled, none missing, and nothing goes on behind it."""
        before, ended, documents = self.at_work(), set[bool](), list[str]()
        for turns in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89):
            documents.append(f"cancelled after {turns} turns")
            rows = [record(documents[-1], f"common word{n}", ordinal=n) for n in range(20)]
            writes = [asyncio.create_task(self.upsert(engine, collection, rows)) for _ in range(2)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for write in writes:
                write.cancel()
            for end in await asyncio.gather(*writes, return_exceptions=True):
                assert end is None or isinstance(end, asyncio.CancelledError), end
                ended.add(end is None)
            await self.upsert(engine, collection, rows)
            assert await engine.contents(collection) == {(document, 1): 20 for document in documents}
        assert False in ended, "none was cancelled at work"
        hits = await self.search(engine, collection, "common", top_k=1_000)
        assert len(set(chunk_ids(hits))) == len(hits) == 20 * len(documents)
        await self.none_left(before)

    async def test_a_write_that_is_cancelled_late_can_be_repeated(self, engine: EngineT, collection: str) -> None:
        """At parts of the time that such a write has just taken: the engine has some of it, or all."""
        clock, before, books = asyncio.get_running_loop().time, self.at_work(), dict[tuple[str, int], int]()

        def of(part: float) -> list[Record]:
            return [record(f"{part}-{n // 50}", f"common word{n}", ordinal=n % 50) for n in range(400)]

        start = clock()
        await self.upsert(engine, collection, of(1.0))
        took_s = clock() - start
        for part in (0.2, 0.5, 0.8, 0.95):
            write = asyncio.create_task(self.upsert(engine, collection, of(part)))
            await asyncio.wait([write], timeout=part * took_s)
            write.cancel()
            (end,) = await asyncio.gather(write, return_exceptions=True)
            assert end is None or isinstance(end, asyncio.CancelledError), end
            await self.upsert(engine, collection, of(part))
            books |= {(f"{each}-{n}", 1): 50 for each in (1.0, part) for n in range(8)}
            assert await engine.contents(collection) == books
        await self.none_left(before)

    async def none_left(self, before: set[asyncio.Task[object]]) -> None:
        left = self.at_work() - before
        if left:  # a client's own clean-up takes some turns
            await asyncio.wait(left, timeout=self.LEFT_WITHIN_S)
        assert self.at_work() <= before

    async def test_cancelled_calls_leave_no_work_behind(self, engine: EngineT, collection: str) -> None:
        await self.upsert(engine, collection, [record("a", "common")])
        before = self.at_work()
        calls = [
            asyncio.create_task(call)
            for _ in range(5)
            for call in (
                self.search(engine, collection, "common"),
                engine.contents(collection),
                engine.delete(collection, {"unknown": 9}),
                engine.update_payload(collection, "unknown", title="t", groups=frozenset(), fields={}),
            )
        ]
        for turns in range(3):
            await asyncio.sleep(0)
            for call in calls[turns::3]:
                call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert texts(await self.search(engine, collection, "common")) == ["common"]
        await self.none_left(before)

    async def test_reopened_it_holds_what_it_held(self, connect: Callable[[], EngineT]) -> None:
        engine, collection = connect(), f"contract-{uuid.uuid4().hex}"
        await self.create(engine, collection)
        await self.upsert(engine, collection, [record("a", "common", groups={"staff"}), record("b", "common")])
        await engine.delete(collection, {"b": 2})
        await engine.aclose()
        await engine.aclose()
        again = connect()
        try:
            assert collection in await again.collections()
            assert await again.contents(collection) == {("a", 1): 1}
            scope = Scope(frozenset({"staff"}))
            assert texts(await self.search(again, collection, "common", scope=scope)) == ["common"]
            await self.upsert(again, collection, [record("c", "common")])
            assert texts(await self.search(again, collection, "common")) == ["common"]
            await again.drop(collection)
        finally:
            await again.aclose()

    async def test_closed_it_says_so(self, connect: Callable[[], EngineT]) -> None:
        """Of a collection that is there: what is refused is the call, not the name."""
        engine, collection = connect(), f"contract-{uuid.uuid4().hex}"
        await self.create(engine, collection)
        await self.upsert(engine, collection, [record("a", "common")])
        await engine.aclose()
        for call in (
            self.search(engine, collection, "common"),
            self.upsert(engine, collection, [record("b", "common")]),
            engine.update_payload(collection, "a", title="t", groups=frozenset(), fields={}),
            engine.delete(collection, {"a": 2}),
            engine.contents(collection),
            engine.collections(),
            self.create(engine, collection),
            engine.drop(collection),
        ):
            with pytest.raises(EngineUnavailable) as refused:
                await call
            assert refused.value.next_step
        again = connect()
        try:
            assert await again.contents(collection) == {("a", 1): 1}
            await again.drop(collection)
        finally:
            await again.aclose()
