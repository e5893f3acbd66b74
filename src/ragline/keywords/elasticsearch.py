"""BM25 in Elasticsearch, with an analyzer per language.

A collection is an index (`connections.elasticsearch_indices`) with one analysed column, `words`. Which analyzer made its
words stands in the index, and makes those of the queries. `any`, the default, is for every script: `folding` before it,
as with the embedded index, and words in small letters, without accents, stemmed as English. Another language is
Elasticsearch's own analyzer of that name, stop words and stems and all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ragline.connections import elasticsearch_rows as rows
from ragline.connections.elasticsearch import ElasticsearchServer
from ragline.connections.elasticsearch_errors import REBUILD
from ragline.connections.elasticsearch_indices import Built, ElasticsearchIndices
from ragline.connections.elasticsearch_rows import Json
from ragline.connections.elasticsearch_url import Options, options_of
from ragline.keywords.folding import fold
from ragline.types import FieldType, Groups, Hit, Metadata, Record, Scope

ANY = "any"
ANALYSIS: Json = {
    "tokenizer": {"words": {"type": "pattern", "pattern": r"(?U)[\W_]+"}},
    "filter": {"short": {"type": "truncate", "length": 255}},
    "analyzer": {
        ANY: {
            "type": "custom", "tokenizer": "words",
            "filter": ["lowercase", "asciifolding", "short", "porter_stem"],
        }
    },
}  # fmt: skip
"""`short`: Lucene refuses a document with a word over 32,766 bytes."""


def opened(url: str, *, server: object = None) -> ElasticsearchKeywordIndex:
    """`server`: a client of this process that serves here as well, if it is one of the same cluster."""
    options = options_of(url, "keywords")
    if not isinstance(server, ElasticsearchServer) or server.server != options.server:
        server = ElasticsearchServer(options.server)
    return ElasticsearchKeywordIndex(server, options)


class ElasticsearchKeywordIndex:
    """`protocols.KeywordIndex` on a cluster. k1 = 1.2 and b = 0.75, as Lucene has them."""

    def __init__(self, server: ElasticsearchServer, options: Options) -> None:
        self._indices = ElasticsearchIndices(server, options, "keywords")
        self._language = options.language

    @property
    def server(self) -> ElasticsearchServer:
        return self._indices.server

    async def create(self, collection: str, *, fields: Mapping[str, FieldType]) -> None:
        words: Json = {"type": "text", "analyzer": self._language, "index_options": "freqs", "similarity": "BM25"}
        analysis = ANALYSIS if self._language == ANY else {}
        built = await self._indices.create(collection, fields, {"words": words}, {"language": self._language}, analysis)
        if built.fields != fields:
            raise self._indices.rejected(f"the keyword collection {collection} exists with other fields.", REBUILD)

    async def drop(self, collection: str) -> None:
        await self._indices.drop(collection)

    async def collections(self) -> list[str]:
        return await self._indices.collections()

    async def upsert(self, collection: str, records: Sequence[Record]) -> None:
        built = await self._indices.built(collection)
        if not records:
            return
        await self._indices.write(
            collection,
            [
                {**rows.row(record, built.names), **_texts(record, built)}
                for record in records
                if self._indices.declared(collection, record.fields, built) is not None
            ],
        )

    async def update_payload(
        self, collection: str, document: str, *, title: str, groups: Groups, fields: Metadata
    ) -> None:
        await self._indices.update_payload(collection, document, title=title, groups=groups, fields=fields)

    async def delete(self, collection: str, below: Mapping[str, int]) -> None:
        await self._indices.delete(collection, below)

    async def search(self, collection: str, query: str, *, top_k: int, scope: Scope) -> list[Hit]:
        built = await self._indices.built(collection)
        # A word that a query says twice counts once, as in the embedded index: else 700 times "the" outweigh a name.
        said = " ".join(dict.fromkeys(_words(query, built).split()))
        wanted = {"match": {"words": {"query": said, "operator": "or"}}}
        allowed = self._indices.scope(collection, scope, built)
        query_body: Json = {"bool": {"must": [wanted], "filter": allowed}}
        found = await self._indices.best(collection, query_body, top_k=top_k, level=built.shards > 1)
        return [rows.hit(one["_source"], _text(one["_source"]), float(one["_score"]), "bm25") for one in found]

    async def contents(self, collection: str) -> dict[tuple[str, int], int]:
        return await self._indices.contents(collection)

    async def aclose(self) -> None:
        await self._indices.aclose()


def _words(text: str, built: Built) -> str:
    if built.how["language"] == ANY:
        return fold(text)
    return text.encode("utf-8", "replace").decode()


def _texts(record: Record, built: Built) -> Json:
    """The words to index, and the chunk's text where it is not their end: most are, and stand there once."""
    words, text = _words(record.search_text, built), record.chunk.text
    if words.endswith(text):
        return {"words": words, "from": len(words) - len(text), "text": None}
    return {"words": words, "from": None, "text": text}


def _text(source: Json) -> str:
    text: str = source["text"] if source["from"] is None else source["words"][source["from"] :]
    return text
