"""The reference store with one defect each: none may pass the contract (test_contract.py runs it over them in a process of its
own; the name keeps them out of an ordinary run)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from ragline.errors import EngineRejected
from ragline.protocols import Vectors, VectorStore
from ragline.testing.exact import ExactVectorStore, Shelf
from ragline.testing.vectors import VectorStoreContract
from ragline.types import FieldType, Groups, Hit, Metadata, Record, Scope


class ClosedSaysNoSuchCollection(ExactVectorStore):
    def _open(self) -> None:
        if self._closed:
            raise EngineRejected("There is none of that name.", next_step="Make it.", engine="broken")


class ClosedStillAnswers(ExactVectorStore):
    async def aclose(self) -> None:
        pass


class ForgetsWhatWasCancelled(ExactVectorStore):
    """A write claims its rows before it has written them, and does not give the claim back."""

    def __init__(self, shelves: dict[str, Shelf] | None = None) -> None:
        super().__init__(shelves)
        self._claimed: set[str] = set()

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        self._shelf(collection)
        mine = [at for at, one in enumerate(records) if one.chunk.id not in self._claimed]
        self._claimed.update(records[at].chunk.id for at in mine)
        await asyncio.sleep(0)
        await super().upsert(collection, [records[at] for at in mine], vectors[mine])
        self._claimed.difference_update(records[at].chunk.id for at in mine)


class DoublesWhatWasCancelled(ExactVectorStore):
    """After a cancelled write, its rows stand beside those of the next one."""

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            spare = [replace(one, chunk=replace(one.chunk, id=one.chunk.id + "'")) for one in records]
            await super().upsert(collection, spare, vectors)
            raise
        await super().upsert(collection, records, vectors)


class WritesBehindTheCaller(ExactVectorStore):
    """What goes on after a cancelled write is nobody's."""

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._left = asyncio.create_task(asyncio.sleep(3_600))
            raise
        await super().upsert(collection, records, vectors)


class SwallowsCancelling(ExactVectorStore):
    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise RuntimeError("cancelled") from None
        await super().upsert(collection, records, vectors)


class SeenLater(ExactVectorStore):
    """A write returns before it can be seen."""

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        self._shelf(collection)
        asyncio.get_running_loop().call_later(
            0.01, lambda: asyncio.ensure_future(self._put(collection, records, vectors))
        )

    async def _put(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        await super().upsert(collection, records, vectors)


class DeletesTheBound(ExactVectorStore):
    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        await super().delete(collection, {document: content + 1 for document, content in below.items()})


class DeletesNothing(ExactVectorStore):
    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        self._shelf(collection)


class LatestContentOnly(ExactVectorStore):
    """Takes a document, not a content, as what a delete is about."""

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        shelf = self._shelf(collection)
        most = {
            one: max((r[0].chunk.content for r in shelf.rows.values() if r[0].chunk.document == one), default=0)
            for one in below
        }
        await super().delete(collection, {one: max(content, most[one]) for one, content in below.items()})


class IgnoresGroups(ExactVectorStore):
    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        readers = {group for row in self._shelf(collection).rows.values() for group in row[0].groups}
        return await super().search(collection, vector, top_k=top_k, scope=replace(scope, groups=frozenset(readers)))


class IgnoresTheLastCondition(ExactVectorStore):
    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        return await super().search(
            collection, vector, top_k=top_k, scope=replace(scope, conditions=scope.conditions[:-1])
        )


class TiesAsTheyCome(ExactVectorStore):
    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        hits = await super().search(collection, vector, top_k=1_000_000, scope=scope)
        place = {id: at for at, id in enumerate(self._shelf(collection).rows)}
        return sorted(hits, key=lambda hit: (-hit.score, place[hit.chunk.id]))[:top_k]


class ScoresAreDistances(ExactVectorStore):
    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        hits = await super().search(collection, vector, top_k=top_k, scope=scope)
        return [replace(hit, score=(1 + hit.score) / 2) for hit in hits]


class ScoresAreNotOfTheVectors(ExactVectorStore):
    """A filter before the search that takes a part: what is near and filtered late is missing."""

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        first = await super().search(collection, vector, top_k=20 * top_k, scope=Scope(scope.groups))
        inside = await super().search(collection, vector, top_k=1_000_000, scope=scope)
        seen = {hit.chunk.id for hit in first}
        return [hit for hit in inside if hit.chunk.id in seen][:top_k]


class NewPayloadLosesFields(ExactVectorStore):
    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        await super().update_payload(collection, document, title=title, groups=groups, fields={})


class NewPayloadForTheFirstHundred(ExactVectorStore):
    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        shelf = self._shelf(collection)
        for id in [id for id, row in shelf.rows.items() if row[0].chunk.document == document][:100]:
            record, vector = shelf.rows[id]
            shelf.rows[id] = (replace(record, title=title, groups=groups, fields=fields), vector)


class MakesWhatIsMissing(ExactVectorStore):
    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        self._shelves.setdefault(collection, Shelf(vectors.shape[1]))
        await super().upsert(collection, records, vectors)


class CreatingEmpties(ExactVectorStore):
    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        await super().create(collection, dim=dim, fields=fields)
        self._shelves[collection] = Shelf(dim)


class LosesPages(ExactVectorStore):
    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        hits = await super().search(collection, vector, top_k=top_k, scope=scope)
        return [replace(hit, chunk=replace(hit.chunk, page=hit.chunk.page or 0)) for hit in hits]


class TakesAThousandAtMost(ExactVectorStore):
    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        await super().upsert(collection, records[:1_000], vectors[:1_000])


class ForgetsWhenClosed(ExactVectorStore):
    async def aclose(self) -> None:
        for shelf in self._shelves.values():
            shelf.rows = dict(list(shelf.rows.items())[:0])
        await super().aclose()


BROKEN: tuple[type[ExactVectorStore], ...] = tuple(ExactVectorStore.__subclasses__())


def _contract(broken: type[ExactVectorStore]) -> type[VectorStoreContract]:
    class TestBroken(VectorStoreContract):
        LEFT_WITHIN_S = 0.5

        @pytest.fixture
        def connect(self) -> Callable[[], VectorStore]:
            disk: dict[str, Shelf] = {}
            return lambda: broken(disk)

    return TestBroken


globals().update({f"Test{broken.__name__}": _contract(broken) for broken in BROKEN})
