"""The contract of `ChunkLog`, as tests.

class TestMine(ChunkLogContract):
    @pytest.fixture
    def connect(self):
        url = a log of its own for each test
        return lambda: MyChunkLog(url)

    @pytest.fixture
    def write_raw(self):
        return a function (topic, key, value) that puts bytes into the log as a stranger would
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import pytest_asyncio

from ragline.chunking import chunk_id
from ragline.errors import EngineRejected
from ragline.protocols import ChunkLog, ChunkReader
from ragline.types import ChunkMessage, Delivery, Topic

WriteRaw = Callable[[Topic, bytes, bytes], Awaitable[None]]

WITHIN_S = 60.0
"""For what must arrive: long, because readers have to join first. Nothing is asserted about how long it took."""


def messages(document: str, *, count: int = 3, content: int = 1, text: str = "Herons wade.") -> list[ChunkMessage]:
    return [
        ChunkMessage("default", document, chunk_id("default", document, content, n), content, n, count, f"{text} {n}")
        for n in range(count)
    ]


async def take(reader: ChunkReader, count: int) -> list[Delivery]:
    """The next `count` deliveries; more is a failure, and so is waiting for longer than WITHIN_S."""
    found: list[Delivery] = []
    async with asyncio.timeout(WITHIN_S):
        while len(found) < count:
            found += await reader.read(most=count - len(found), within_s=0.5)
    return found


def texts(deliveries: Sequence[Delivery]) -> list[str]:
    return [one.message.text for one in deliveries]


@pytest.mark.asyncio
class ChunkLogContract:
    MOST_BYTES = 1_000_000
    """The log's limit for one message."""

    @pytest.fixture
    def connect(self) -> Callable[[], ChunkLog]:
        """Yours: a function that opens the adapter, each time on the same log."""
        raise NotImplementedError

    @pytest.fixture
    def write_raw(self) -> WriteRaw:
        """Yours: bytes into the log, past the adapter."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def log(self, connect: Callable[[], ChunkLog]) -> AsyncIterator[ChunkLog]:
        log = connect()
        yield log
        await log.aclose()

    @asynccontextmanager
    async def reading(self, log: ChunkLog, topic: Topic = "doc_chunks") -> AsyncIterator[ChunkReader]:
        reader = await log.reader(topic)
        try:
            yield reader
        finally:
            await reader.aclose()

    @pytest.mark.parametrize("topic", ["doc_chunks", "doc_vectors"])
    async def test_what_is_appended_is_read_as_it_was(self, log: ChunkLog, topic: Topic) -> None:
        odd = "größtes 🦩 \u2028 \ud800 \x00 " + "x" * 20_000
        given = messages("a", text=odd)
        if topic == "doc_vectors":
            vector = bytes(range(64)) * 2
            given = [
                ChunkMessage(m.namespace, m.doc_id, m.chunk_id, m.content, m.ordinal, m.count, m.text, "space", vector)
                for m in given
            ]
        given[1] = replace(given[1], traceparent=f"00-{'4b' * 16}-{'00f0' * 4}-01")
        await log.append(topic, given)
        async with self.reading(log, topic) as reader:
            found = await take(reader, 3)
        assert [one.message for one in found] == given

    async def test_nothing_to_append(self, log: ChunkLog) -> None:
        await log.append("doc_chunks", [])
        async with self.reading(log) as reader:
            assert await reader.read(most=10, within_s=0.1) == []

    async def test_a_document_comes_in_order_whoever_appends_beside_it(self, log: ChunkLog) -> None:
        await asyncio.gather(*(log.append("doc_chunks", messages(f"d{n}", count=20)) for n in range(10)))
        async with self.reading(log) as reader:
            found = await take(reader, 200)
        for n in range(10):
            ordinals = [one.message.ordinal for one in found if one.message.doc_id == f"d{n}"]
            assert ordinals == list(range(20))

    async def test_what_is_not_done_comes_again(self, log: ChunkLog) -> None:
        await log.append("doc_chunks", messages("a", count=6))
        async with self.reading(log) as reader:
            found = await take(reader, 6)
            await reader.done(found[:2])
            await reader.done(found[:2])
        async with self.reading(log) as reader:
            assert texts(await take(reader, 4)) == texts(found[2:])

    async def test_done_out_of_order_loses_nothing_before_it(self, log: ChunkLog) -> None:
        await log.append("doc_chunks", messages("a", count=6))
        async with self.reading(log) as reader:
            found = await take(reader, 6)
            await reader.done(found[3:5])
            await reader.done(found[:1])
        async with self.reading(log) as reader:
            again = await take(reader, 5)
            assert texts(again) == texts(found[1:])
            await reader.done(again)
        async with self.reading(log) as reader:
            assert await reader.read(most=10, within_s=1.0) == []

    async def test_fresh_ones_go_before_bulk(self, log: ChunkLog) -> None:
        await log.append("doc_chunks", messages("a", count=2_000, text="bulk"), bulk=True)
        async with self.reading(log) as reader:
            first = await take(reader, 1)
            await log.append("doc_chunks", messages("b", count=1, text="fresh"))
            rest: list[Delivery] = []
            async with asyncio.timeout(WITHIN_S):
                while not any(text.startswith("fresh") for text in texts(rest)):
                    rest += await reader.read(most=1, within_s=0.5)
                    await log.lag()  # each turn asks the log, so that what it has more of can arrive meanwhile
        assert texts(first)[0].startswith("bulk")
        assert len(rest) < 2_000 - 1, "it did not wait for the rest of the bulk"

    @pytest.mark.parametrize(
        "value",
        [b"", b"\xff\xfe", b"[]", b"{}", b'{"v": 2}', b"null", b"[" * 100_000, b'{"v": 1, "namespace": 7}'],
        ids=["empty", "bytes", "list", "no fields", "version", "null", "deep", "type"],
    )
    async def test_what_is_no_chunk_goes_to_the_dead_letters_and_holds_nobody_up(
        self, log: ChunkLog, write_raw: WriteRaw, value: bytes
    ) -> None:
        before, after = messages("a"), messages("a", content=2)
        await log.append("doc_chunks", before)
        await write_raw("doc_chunks", b"a", value)
        await log.append("doc_chunks", after)
        async with self.reading(log) as reader:
            found = await take(reader, 6)
            await reader.done(found)
        assert [one.message for one in found] == before + after
        (letter,) = await log.dead_letters("doc_chunks", most=10)
        assert letter.value == value
        assert letter.reason
        async with self.reading(log) as reader:
            assert await reader.read(most=10, within_s=1.0) == [], "it is done with"

    async def test_what_nobody_can_process_is_buried_with_the_reason(self, log: ChunkLog) -> None:
        await log.append("doc_chunks", messages("a"))
        async with self.reading(log) as reader:
            found = await take(reader, 3)
            await reader.bury(found[:1], "Its embedder refuses it. – größtes")
            await reader.done(found[1:])
        (letter,) = await log.dead_letters("doc_chunks", most=10)
        assert letter.reason == "Its embedder refuses it. – größtes"
        assert b"Herons wade. 0" in letter.value
        assert await log.dead_letters("doc_vectors", most=10) == []
        async with self.reading(log) as reader:
            assert await reader.read(most=10, within_s=1.0) == []

    async def test_one_over_the_limit_is_refused_and_none_beside_it_is_appended(self, log: ChunkLog) -> None:
        large = messages("a", count=1, text="x" * self.MOST_BYTES)
        with pytest.raises(EngineRejected) as refused:
            await log.append("doc_chunks", messages("b") + large)
        assert "x" * 50 not in str(refused.value), "no text of a document"
        just = messages("c", count=1, text="x" * (self.MOST_BYTES - 1_000))
        await log.append("doc_chunks", just)
        async with self.reading(log) as reader:
            assert [one.message for one in await take(reader, 1)] == just

    async def test_readers_share_and_one_that_leaves_leaves_its_part_to_the_others(self, log: ChunkLog) -> None:
        documents = [f"d{n}" for n in range(40)]
        async with self.reading(log) as first, self.reading(log) as second:
            async with asyncio.timeout(WITHIN_S):  # until both have their part
                while not (first.holds and second.holds):
                    assert await first.read(most=1, within_s=0.1) == await second.read(most=1, within_s=0.1) == []
            for document in documents:
                await log.append("doc_chunks", messages(document, count=1))
            ours: list[Delivery] = []
            theirs: list[Delivery] = []
            async with asyncio.timeout(WITHIN_S):
                while len(ours) + len(theirs) < len(documents):
                    ours += await first.read(most=100, within_s=0.1)
                    theirs += await second.read(most=100, within_s=0.1)
            assert ours
            assert theirs
            await first.done(ours[:1])
            await second.done(theirs)
            await first.aclose()
            again = await take(second, len(ours) - 1)
        assert sorted(texts(ours) + texts(theirs)) == sorted(texts(again) + texts(theirs) + texts(ours[:1]))
        assert {one.message.doc_id for one in [*ours, *theirs]} == set(documents)

    async def test_of_what_went_to_another_reader_nothing_is_made_done(self, log: ChunkLog) -> None:
        await log.append("doc_chunks", messages("a"))
        async with self.reading(log) as first:
            found = await take(first, 3)
            async with self.reading(log) as second:
                async with asyncio.timeout(WITHIN_S):
                    while not second.holds or {one.hold for one in found} & first.holds:
                        await first.read(most=1, within_s=0.1)
                        await second.read(most=1, within_s=0.1)
                await first.done(found)
        async with self.reading(log) as third:
            assert texts(await take(third, 3)) == texts(found)

    async def test_the_lag_is_what_is_not_done(self, log: ChunkLog) -> None:
        assert set((await log.lag()).values()) == {0}
        await log.append("doc_chunks", messages("a", count=5))
        await log.append("doc_chunks", messages("b", count=2), bulk=True)
        async with self.reading(log) as reader:
            found = await take(reader, 7)
            assert sorted((await log.lag()).values()) == [0, 0, 2, 5]
            await reader.done(found)
            assert set((await log.lag()).values()) == {0}

    async def test_a_read_that_is_cancelled_loses_nothing(self, log: ChunkLog) -> None:
        """Wherever it was cancelled: waiting for the first message, or with some of them already at hand."""
        given = messages("a", count=60)
        async with self.reading(log) as reader:
            waiting = asyncio.create_task(reader.read(most=10, within_s=30.0))
            await asyncio.sleep(0)
            waiting.cancel()
            (end,) = await asyncio.gather(waiting, return_exceptions=True)
            assert isinstance(end, asyncio.CancelledError)
            await log.append("doc_chunks", given[:3])
            found = await take(reader, 3)
            await log.append("doc_chunks", given[3:])
            for turns in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55):
                reading = asyncio.create_task(reader.read(most=2, within_s=30.0))
                for _ in range(turns):
                    await asyncio.sleep(0)
                reading.cancel()
                (end,) = await asyncio.gather(reading, return_exceptions=True)
                if not isinstance(end, asyncio.CancelledError):
                    assert isinstance(end, list), end
                    found += end
            found += await take(reader, len(given) - len(found))
            assert [one.message for one in found] == given
            assert await reader.read(most=10, within_s=0.5) == []

    async def test_an_append_that_is_cancelled_stops_no_other(self, log: ChunkLog) -> None:
        cancelled = asyncio.create_task(log.append("doc_chunks", messages("a", count=50)))
        await asyncio.sleep(0)
        cancelled.cancel()
        with suppress(asyncio.CancelledError):
            await cancelled
        await log.append("doc_chunks", messages("b"))
        async with self.reading(log) as reader:
            found: list[Delivery] = []
            async with asyncio.timeout(WITHIN_S):
                while sum(one.message.doc_id == "b" for one in found) < 3:
                    found += await reader.read(most=100, within_s=0.5)

    async def test_closing_twice(self, connect: Callable[[], ChunkLog]) -> None:
        log = connect()
        await log.append("doc_chunks", messages("a"))
        reader = await log.reader("doc_chunks")
        await reader.aclose()
        await reader.aclose()
        await log.aclose()
        await log.aclose()
