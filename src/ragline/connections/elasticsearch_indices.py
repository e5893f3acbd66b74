"""Collections as indices of Elasticsearch: what the vector store and the keyword index there have in common.

A collection is an index, ``PREFIX-ROOM-NAME``, and an alias, through which alone is written: a write to an index that
somebody has dropped is refused, where Elasticsearch would else make one that has forgotten its mapping. What built it
stands in the mapping's `_meta`. The id of a document there is the chunk's, so that every write may be repeated.

Reads of everything (`contents`, and what a delete looks for) go by sorted keys, page after page: nothing is held open in
the cluster that a cancelled call could leave behind. They refresh first, so that also the rows of a process that was
killed before its own refresh are seen.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import elasticsearch

from ragline.connections import elasticsearch_rows as rows
from ragline.connections.elasticsearch import ElasticsearchServer
from ragline.connections.elasticsearch_errors import REBUILD
from ragline.connections.elasticsearch_rows import Json
from ragline.connections.elasticsearch_url import Options
from ragline.errors import EngineError, EngineRejected, EngineUnavailable
from ragline.types import FieldType, Groups, Metadata, Scope

FORMAT = 1
PAGE = 5_000
DOCUMENTS_A_QUERY = 200
"""Documents that one search looks for: five clauses each stay below the 1,024 that the smallest cluster takes."""
REFRESH_EVERY = "30s"
"""Every write refreshes; this is for those of a process that was killed between the two."""


@dataclass(frozen=True, slots=True)
class Built:
    """What built an index. `how`: the room's own words, such as the dimension or the analyzer."""

    fields: Mapping[str, FieldType]
    names: Mapping[str, str]
    shards: int
    how: Json


class ElasticsearchIndices:
    """The collections of one room. `engine`: as errors name it."""

    def __init__(self, server: ElasticsearchServer, options: Options, room: Literal["vectors", "keywords"]) -> None:
        self.server = server.joined()
        self.engine = f"{room}:elasticsearch"
        self._options = options
        self._room = room
        self._known: dict[str, Built] = {}
        self._closed = False

    async def create(
        self, collection: str, fields: Mapping[str, FieldType], properties: Json, how: Json, analysis: Json
    ) -> Built:
        """Make the index, unless there is one; returns what built the one that is there then."""
        index, what = self.index(collection), f"making the collection {collection}"
        meta = {
            "format": FORMAT, "prefix": self._options.prefix, "collection": collection, "how": how,
            "shards": self._options.shards, "fields": {name: str(kind) for name, kind in fields.items()},
        }  # fmt: skip
        settings = {
            "number_of_shards": self._options.shards, "number_of_replicas": self._options.replicas,
            "refresh_interval": REFRESH_EVERY, "analysis": analysis,
        }  # fmt: skip
        mappings = {
            "dynamic": False, "_meta": {"ragline": meta}, "properties": {**rows.properties(fields), **properties}
        }  # fmt: skip
        self._open(what)

        async def make(client: elasticsearch.AsyncElasticsearch) -> None:
            try:
                await client.indices.create(
                    index=index, settings=settings, mappings=mappings, aliases={self._door(collection): {}}
                )
            except elasticsearch.BadRequestError as error:
                if "resource_already_exists_exception" not in str(error.error):
                    raise

        self._known.pop(collection, None)
        await self.server.patiently(self.engine, what, make)
        return await self.built(collection)

    async def drop(self, collection: str) -> None:
        self._known.pop(collection, None)
        index, what = self.index(collection), f"dropping the collection {collection}"
        self._open(what)
        await self.server.patiently(
            self.engine, what, lambda client: client.options(ignore_status=404).indices.delete(index=index)
        )

    async def collections(self) -> list[str]:
        every, what = f"{self._options.prefix}-{self._room}-*", "listing the collections"
        self._open(what)
        told = await self.server.call(
            self.engine, what, lambda client: client.indices.get_mapping(index=every, filter_path="*.mappings._meta")
        )
        metas = (_meta(one) for one in told.body.values())
        return sorted(meta["collection"] for meta in metas if meta and meta["prefix"] == self._options.prefix)

    async def built(self, collection: str) -> Built:
        """From the index, once. Raises EngineRejected: there is none, or it is of a newer version."""
        if found := self._known.get(collection):
            return found
        index = self.index(collection)
        told = await self._reading(collection, "looking at it", lambda client: client.indices.get_mapping(index=index))
        meta = _meta(next(iter(told.body.values())))
        if meta is None or meta["format"] > FORMAT:
            raise EngineRejected(
                f"Elasticsearch: the index {index} was not written by this version of Ragline.",
                next_step=f"Start the one that wrote it, or: {REBUILD}", engine=self.engine,
            )  # fmt: skip
        fields = {name: FieldType(kind) for name, kind in meta["fields"].items()}
        built = self._known[collection] = Built(fields, rows.columns(fields), meta["shards"], meta["how"])
        return built

    async def write(self, collection: str, documents: Sequence[Json]) -> None:
        """Insert or replace by the chunk's id. Raises EngineError."""
        await self._write(collection, "upserting", [self._action("index", collection, one) for one in documents])

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        built, what = await self.built(collection), "updating a document's chunks"
        new = self._line({"doc": rows.payload(title, groups, self.declared(collection, fields, built), built.names)})
        async for ids in self._ids(collection, rows.of_document(document), what):
            await self._write(collection, what, [self._head("update", collection, one) + new for one in ids])

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        await self.built(collection)
        wanted, what = list(below.items()), "deleting chunks"
        for at in range(0, len(wanted), DOCUMENTS_A_QUERY):
            query = rows.below(wanted[at : at + DOCUMENTS_A_QUERY])
            async for ids in self._ids(collection, query, what):
                await self._write(collection, what, [self._head("delete", collection, one) for one in ids])

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        await self._refresh(collection, "counting chunks")
        keys = [{"document": {"terms": {"field": "document"}}}, {"content": {"terms": {"field": "content"}}}]
        books: Json = {"size": PAGE, "sources": keys}
        found: dict[tuple[str, int], int] = {}
        while True:
            body = {"size": 0, "track_total_hits": False, "aggregations": {"books": {"composite": books}}}
            told = await self._search(collection, "counting chunks", body, "aggregations.books")
            page = told.get("aggregations", {}).get("books", {})
            for bucket in page.get("buckets", []):
                found[bucket["key"]["document"], bucket["key"]["content"]] = bucket["doc_count"]
            if not (after := page.get("after_key")):
                return found
            books = {**books, "after": after}

    async def best(self, collection: str, query: Json, *, top_k: int, level: bool = False) -> list[Json]:
        """Sources and scores of the `top_k` best, ties by chunk id.

        level: by the frequencies of all shards together, asked for first, so that a score does not depend on the shard.
        """
        body = {
            "query": query, "size": min(top_k, 10_000), "track_total_hits": False,
            "sort": [{"_score": "desc"}, {"chunk": "asc"}],
        }  # fmt: skip
        kind: Literal["dfs_query_then_fetch", "query_then_fetch"] = (
            "dfs_query_then_fetch" if level else "query_then_fetch"
        )
        told = await self._search(collection, "searching", body, "hits.hits._score", "hits.hits._source", kind=kind)
        found: list[Json] = told.get("hits", {}).get("hits", [])
        return found

    def scope(self, collection: str, scope: Scope, built: Built) -> list[Json]:
        """Raises EngineRejected: a field that the index was not built with."""
        for condition in scope.conditions:
            self._declared(collection, condition.field, built)
        return rows.filters(scope, built.names)

    def declared(self, collection: str, fields: Metadata, built: Built) -> Metadata:
        for name in fields:
            self._declared(collection, name, built)
        return fields

    def rejected(self, message: str, next_step: str) -> EngineRejected:
        return EngineRejected(f"Elasticsearch: {message}", next_step=next_step, engine=self.engine)

    def index(self, collection: str) -> str:
        """Its name there: small letters; where that loses something, or is long, a sum makes it one of a kind."""
        name = re.sub(r"[^a-z0-9_.-]", "_", collection.lower())
        if name != collection or len(name) > 150:
            name = f"{name[:150]}-{hashlib.sha256(collection.encode()).hexdigest()[:12]}"
        return f"{self._options.prefix}-{self._room}-{name}"

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self.server.aclose()

    def _door(self, collection: str) -> str:
        return f"{self._options.prefix}-write-{self.index(collection).removeprefix(f'{self._options.prefix}-')}"

    def _action(self, verb: str, collection: str, document: Json) -> bytes:
        return self._head(verb, collection, document["chunk"]) + self._line(document)

    def _head(self, verb: str, collection: str, chunk: str) -> bytes:
        words: Json = {"_index": self._door(collection), "_id": chunk}
        if verb == "update":
            words["retry_on_conflict"] = 5
        return self._line({verb: words})

    def _line(self, value: Json) -> bytes:
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        except UnicodeEncodeError as error:
            raise self.rejected("a text is not valid Unicode.", "Correct it and send it again.") from error

    async def _write(self, collection: str, verb: str, actions: Sequence[bytes]) -> None:
        what = f"{verb} in the collection {collection}"
        self._open(what)
        try:
            await self.server.write(
                self.engine, what, actions, most_bytes=self._options.bulk_bytes, index=self.index(collection)
            )
        except EngineRejected as error:
            raise self._maybe_gone(collection, error) from error

    async def _ids(self, collection: str, query: Json, verb: str) -> AsyncIterator[list[str]]:
        """Ids of the chunks that `query` finds, in pages, by rising id: what is written meanwhile moves no page."""
        await self._refresh(collection, verb)
        body: Json = {
            "query": {"bool": {"filter": [query]}}, "size": PAGE, "sort": [{"chunk": "asc"}], "_source": False,
            "track_total_hits": False,
        }  # fmt: skip
        while True:
            told = await self._search(collection, verb, body, "hits.hits.sort")
            ids = [str(one["sort"][0]) for one in told.get("hits", {}).get("hits", [])]
            if ids:
                yield ids
            if len(ids) < PAGE:
                return
            body["search_after"] = [ids[-1]]

    async def _refresh(self, collection: str, verb: str) -> None:
        await self._reading(collection, verb, lambda client: client.indices.refresh(index=self.index(collection)))

    async def _search(
        self, collection: str, verb: str, body: Json, *shown: str,
        kind: Literal["dfs_query_then_fetch", "query_then_fetch"] = "query_then_fetch",
    ) -> Json:  # fmt: skip
        index = self.index(collection)
        told = await self._reading(
            collection, verb,
            lambda client: client.search(
                index=index, body=body, filter_path=list(shown), allow_partial_search_results=False, search_type=kind
            ),
        )  # fmt: skip
        answer: Json = told.body
        return answer

    async def _reading(self, collection: str, verb: str, ask: Any) -> Any:
        what = f"{verb} in the collection {collection}"
        self._open(what)
        try:
            return await self.server.call(self.engine, what, ask)
        except EngineRejected as error:
            raise self._maybe_gone(collection, error) from error

    def _maybe_gone(self, collection: str, error: EngineRejected) -> EngineError:
        if "index_not_found_exception" not in error.message:
            return error
        self._known.pop(collection, None)
        return self.rejected(f"the collection {collection} does not exist.", REBUILD)

    def _declared(self, collection: str, field: str, built: Built) -> None:
        if field not in built.names:
            raise self.rejected(f"the collection {collection} was built without the field {field!r}.", REBUILD)

    def _open(self, what: str) -> None:
        if self._closed:
            raise EngineUnavailable(
                f"Elasticsearch: {what} failed. It is closed.", next_step="Start the process again.", engine=self.engine
            )


def _meta(mapping: Json) -> Json | None:
    found: Json | None = mapping["mappings"].get("_meta", {}).get("ragline")
    return found
