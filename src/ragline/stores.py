"""Both stores as one: what is written to one is written to the other, many documents in one durable write.

The ingest path and the re-index write through this; searches ask the stores themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ragline.coalescing import Coalescer
from ragline.errors import EngineDenied, EngineTimeout, EngineUnavailable
from ragline.protocols import KeywordIndex, Vectors, VectorStore
from ragline.types import Epoch, Groups, Metadata, Record, Space

MOST_RECORDS = 2048
"""Records in one durable write to a store."""

ENOUGH_RECORDS, WRITE_PACE_S = 64, 1.0
"""While more documents are on their way, a durable write waits for so many records, or so long since the last one: each
costs an fsync, a segment, a share of a merge. A document that comes alone does not wait."""


@dataclass(frozen=True, slots=True)
class _Write:
    collection: str
    records: Sequence[Record]
    vectors: Vectors


_Upsert = Callable[[str, Sequence[_Write]], Awaitable[None]]


class Stores:
    def __init__(self, vectors: VectorStore, keywords: KeywordIndex) -> None:
        self._vectors = vectors
        self._keywords = keywords
        self._coming = 0
        paced = partial(
            Coalescer[_Write, None], most=MOST_RECORDS, weigh=_records_of, enough=ENOUGH_RECORDS, pace_s=self._pace_s
        )
        self._write_vectors = paced(self._upsert_vectors)
        self._write_keywords = paced(self._upsert_keywords)

    async def write(self, epoch: Epoch, rows: Sequence[Record], vectors: Vectors, space: Space) -> None:
        """Upsert into both stores of `epoch`, together with whatever other documents are being written.

        Shapes:  vectors (rows, dim).  Raises EngineError.

        `space` is that of `vectors`: an epoch of another one, which awaits its re-index, gets the words alone.
        When one store fails the other is waited for all the same: nothing may land after its document was given up.
        """
        if not rows:  # an archive: its words are those of what lies in it
            return
        write = _Write(epoch.keywords, rows, vectors)
        writes = [self._write_keywords(write)]
        if epoch.space == space:
            writes.append(self._write_vectors(replace(write, collection=epoch.vectors)))
        results = await asyncio.gather(*writes, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def update_payload(
        self, epoch: Epoch, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        """Replace what a document's rows say beside their text and vectors. Raises EngineError."""
        await asyncio.gather(
            self._vectors.update_payload(epoch.vectors, document, title=title, groups=groups, fields=fields),
            self._keywords.update_payload(epoch.keywords, document, title=title, groups=groups, fields=fields),
        )

    async def delete(self, epoch: Epoch, below: Mapping[str, int]) -> None:
        """Remove the rows of each document's contents below the number. Raises EngineError."""
        await asyncio.gather(self._vectors.delete(epoch.vectors, below), self._keywords.delete(epoch.keywords, below))

    @contextmanager
    def on_its_way(self) -> Iterator[None]:
        """A document that is parsed or embedded, and will want to be written: others' writes wait a little for it."""
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1
            if not self._coming:
                self._write_vectors.hurry()
                self._write_keywords.hurry()

    def _pace_s(self) -> float:
        return WRITE_PACE_S if self._coming else 0.0

    async def _upsert_vectors(self, batch: list[_Write]) -> list[Exception | None]:
        def upsert(collection: str, writes: Sequence[_Write]) -> Awaitable[None]:
            return self._vectors.upsert(collection, _rows(writes), np.concatenate([write.vectors for write in writes]))

        return await _by_collection(batch, upsert)

    async def _upsert_keywords(self, batch: list[_Write]) -> list[Exception | None]:
        return await _by_collection(batch, lambda collection, writes: self._keywords.upsert(collection, _rows(writes)))


async def _by_collection(batch: Sequence[_Write], upsert: _Upsert) -> list[Exception | None]:
    """One write per collection. When the engine rejects it, document by document, so that only the bad one fails."""
    results: dict[int, Exception | None] = {}
    for collection in {write.collection for write in batch}:
        mine = [write for write in batch if write.collection == collection]
        try:
            await upsert(collection, mine)
        except (
            EngineUnavailable,
            EngineTimeout,
            EngineDenied,
        ) as error:  # no document's doing, or not to be told whose
            results.update({id(write): error for write in mine})
        except Exception as error:  # noqa: BLE001 (it reaches the document that caused it)
            for write in mine:
                results[id(write)] = error if len(mine) == 1 else await _alone(upsert, write)
    return [results.get(id(write)) for write in batch]


async def _alone(upsert: _Upsert, write: _Write) -> Exception | None:
    try:
        await upsert(write.collection, [write])
    except Exception as error:  # noqa: BLE001 (as above)
        return error
    return None


def _records_of(write: _Write) -> int:
    return len(write.records)


def _rows(writes: Sequence[_Write]) -> list[Record]:
    return [record for write in writes for record in write.records]
