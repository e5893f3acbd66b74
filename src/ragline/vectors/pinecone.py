"""Vectors in Pinecone, on serverless indexes (docs/engines/pinecone.md).

    pinecone://INDEX?key_file=/run/secrets/pinecone&cloud=aws&region=us-east-1

A collection is a namespace; one record in it, the mark, says how it was made. Pinecone shows a write some seconds later, so a
write returns once a search sees it: each has a number, and a search says up to which number it sees.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from ragline.errors import EngineRejected, EngineTimeout
from ragline.protocols import Vectors
from ragline.types import FieldType, Groups, Hit, Metadata, Record, Scope
from ragline.vectors import pinecone_rows as rows
from ragline.vectors.pinecone_client import Match, PineconeIndex, PineconeProject
from ragline.vectors.pinecone_errors import translated
from ragline.vectors.pinecone_rows import ENGINE, MARK, Shelf
from ragline.vectors.pinecone_url import options_of
from ragline.vectors.pinecone_waiting import Freshness, together

MOST_HITS = 10_000
"""Of one query: the service's own limit."""
ROUNDS = 10
"""Of deleting and looking, before it is given up that the list of ids follows."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A collection and where it lies."""

    shelf: Shelf
    index: PineconeIndex
    namespace: str
    fresh: Freshness


class PineconeVectorStore:
    """`protocols.VectorStore` on a project's indexes. Raises ConfigurationError: what of the URL, or the key, is wrong."""

    def __init__(self, url: str) -> None:
        self._options = options_of(url)
        self._project = PineconeProject(self._options)
        self._opened: dict[str, _Open] = {}

    async def create(self, collection: str, *, dim: int, fields: Mapping[str, FieldType]) -> None:
        with translated(collection):
            found = await self._look(collection)
            if found is None:
                index = await self._fitting(dim)
                shelf = Shelf(collection, dim, dict(fields), secrets.token_hex(8))
                namespace = self._namespace(collection)
                await index.make(namespace, rows.filterable(shelf))
                found = self._keep(shelf, index, namespace)
                await found.fresh.reached(await index.upsert(namespace, [[rows.marked(shelf)]]))
                await index.marked(namespace)
        if found.shelf.dim != dim:
            raise EngineRejected(
                f"The vector collection {collection} exists with {found.shelf.dim} dimensions, not {dim}.",
                next_step="Run `ragline reindex NAMESPACE`.",
                engine=ENGINE,
            )

    async def drop(self, collection: str) -> None:
        self._opened.pop(collection, None)
        with translated(collection):
            for index in await self._indexes():
                await index.remove(self._namespace(collection))

    async def collections(self) -> list[str]:
        start = self._namespace("")
        with translated():
            indexes = await self._indexes()
            if not indexes and not self._options.cloud:
                raise self._no_index()
            names = [name for index in indexes for name in await index.namespaces(start)]
        return sorted({unquote(name.removeprefix(start)) for name in names})

    async def upsert(self, collection: str, records: Sequence[Record], vectors: Vectors) -> None:
        if not records:
            return
        async with self._on(collection, write=True) as found:
            parts = await asyncio.to_thread(_requests, found.shelf, records, vectors)
            await found.fresh.reached(await found.index.upsert(found.namespace, parts))

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        """An update of Pinecone's cannot take a value away: records are read, changed and written."""
        async with self._on(collection, write=True) as found:
            payload = rows.payload(found.shelf, title, groups, fields)
            ids = [name async for name in found.index.ids(found.namespace, rows.prefix(document))]
            records = await found.index.fetch(found.namespace, ids)
            changed = [
                {
                    **one, "metadata": {**rows.bare(one["metadata"]), **payload},
                    "values": rows.sent(np.array(one["values"])),
                }
                for one in records.values()
            ]  # fmt: skip
            if changed:
                parts = list(rows.parts(changed, found.shelf.dim))
                await found.fresh.reached(await found.index.upsert(found.namespace, parts))

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        async with self._on(collection, write=True) as found:
            left = dict(below)
            for _ in range(ROUNDS):
                looks = [partial(self._older, found, *one) for one in left.items()]
                listed = await together(looks, self._options.parallel)
                left = {document: left[document] for document, ids in zip(left, listed, strict=True) if ids}
                if not left:
                    return
                ids = [name for every in listed for name in every]
                await found.fresh.reached(await found.index.delete(found.namespace, ids))
        raise EngineTimeout(
            f"Pinecone still lists {len(left)} documents of {collection} that were deleted.",
            next_step="Try again.",
            engine=ENGINE,
        )

    @staticmethod
    async def _older(found: _Open, document: str, content: int) -> list[str]:
        listed = [name async for name in found.index.ids(found.namespace, rows.prefix(document))]
        return [name for name in listed if rows.read_id(name)[1] < content]

    async def search(self, collection: str, vector: NDArray[np.float32], *, top_k: int, scope: Scope) -> list[Hit]:
        async with self._on(collection) as found:
            rows.check(found.shelf, vector[None, :], 1)
            asked, where = rows.sent(vector), rows.where(found.shelf, scope)
            wanted = min(top_k + 1, MOST_HITS)
            matches = await found.index.query(found.namespace, asked, top_k=wanted, where=where, metadata=True)
            if len(matches) > top_k and matches[top_k].score >= matches[top_k - 1].score:
                matches = await self._to_the_end_of_a_tie(found, asked, top_k, where)
            best = matches[:top_k]
            if any(one.metadata is None for one in best):
                best = await found.index.with_metadata(found.namespace, best)
            if not best:
                await self._found(collection)  # nothing is in it, or it is not there
        hits = rows.hits([(one.metadata, one.score) for one in best if one.metadata is not None])
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk.id))

    @staticmethod
    async def _to_the_end_of_a_tie(found: _Open, asked: list[float], top_k: int, where: rows.Json) -> list[Match]:
        """All that score as the `top_k`th, without what stands beside them, in order."""
        wanted = top_k
        while True:
            wanted = min(8 * wanted, MOST_HITS)
            matches = await found.index.query(found.namespace, asked, top_k=wanted, where=where, metadata=False)
            ended = len(matches) < wanted or matches[-1].score < matches[top_k - 1].score
            if ended or wanted == MOST_HITS:
                return sorted(matches, key=_order)

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        async with self._on(collection, write=True) as found:
            ids = [rows.read_id(name) async for name in found.index.ids(found.namespace) if name != MARK]
        return dict(Counter((document, content) for document, content, _ in ids))

    async def aclose(self) -> None:
        await self._project.aclose()

    # ── where a collection lies ──────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _on(self, collection: str, *, write: bool = False) -> AsyncIterator[_Open]:
        """A write looks first whether the collection is still there: Pinecone would make a namespace of any name."""
        self._project.check_open()
        with translated(collection):
            known = self._opened.get(collection)
            if write or known is None or known.index.doubted:
                known = await self._found(collection)
            yield known

    async def _found(self, collection: str) -> _Open:
        found = await self._look(collection)
        if found is None:
            if not await self._indexes():
                raise self._no_index()
            raise EngineRejected(
                f"There is no vector collection {collection}.",
                next_step="Run `ragline reindex NAMESPACE`: it is made anew from the blobs.",
                engine=ENGINE,
            )
        return found

    async def _look(self, collection: str) -> _Open | None:
        namespace = self._namespace(collection)
        for index in await self._indexes():
            mark = await index.mark(namespace)
            if mark is not None:
                shelf, known = rows.read_mark(collection, mark), self._opened.get(collection)
                if known and (known.shelf.made, known.index) == (shelf.made, index):
                    return known
                return self._keep(shelf, index, namespace)
        self._opened.pop(collection, None)
        return None

    def _keep(self, shelf: Shelf, index: PineconeIndex, namespace: str) -> _Open:
        fresh = Freshness(partial(index.indexed, namespace), within_s=self._options.fresh_s)
        found = self._opened[shelf.collection] = _Open(shelf, index, namespace, fresh)
        return found

    async def _indexes(self) -> list[PineconeIndex]:
        """Those of the URL that there are."""
        every = [await self._project.index(name) for name in self._options.indexes]
        return [index for index in every if index is not None]

    async def _fitting(self, dim: int) -> PineconeIndex:
        """The first of the URL with so many dimensions; else the first that is not there, made."""
        every = {name: await self._project.index(name) for name in self._options.indexes}
        for index in every.values():
            if index is not None and index.dim == dim:
                return index
        absent = [name for name, index in every.items() if index is None]
        if absent and self._options.cloud:
            index = await self._project.create(absent[0], dim)
            if index.dim == dim:
                return index
        if absent:
            raise self._no_index(absent[0], dim)
        held = ", ".join(f"{name} {index.dim}" for name, index in every.items() if index is not None)
        raise EngineRejected(
            f"No Pinecone index of the URL takes vectors of {dim} dimensions ({held}).",
            next_step=f"Name one more: pinecone://{','.join(self._options.indexes)},ANOTHER, serverless, dense, cosine, "
            f"{dim} dimensions.",
            engine=ENGINE,
        )

    def _no_index(self, name: str = "", dim: int = 0) -> EngineRejected:
        size = f"with {dim} dimensions" if dim else "with the embedder's dimensions"
        return EngineRejected(
            f"There is no Pinecone index {name or ' or '.join(self._options.indexes)}.",
            next_step=f"Make it (serverless, dense, cosine, {size}), or let Ragline make it: "
            "add ?cloud=aws&region=us-east-1 to the URL.",
            engine=ENGINE,
        )

    def _namespace(self, collection: str) -> str:
        return f"{self._options.prefix}.{quote(collection, safe='')}"


def _requests(shelf: Shelf, records: Sequence[Record], vectors: Vectors) -> list[list[rows.Json]]:
    return list(rows.parts(rows.rows(shelf, records, vectors), shelf.dim))


def _order(match: Match) -> tuple[float, str]:
    return -match.score, rows.read_id(match.id)[2]
