"""One Tantivy index: its writes and its queries. Synchronous; `tantivy.py` puts it on threads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import tantivy
from tantivy import Occur, Query

from ragline.keywords.folding import fold
from ragline.keywords.tantivy_rows import EVERYONE, RESTRICTED, columns, group_term, hit, read, row, schema, stored
from ragline.priority import lower_priority
from ragline.types import AnyOf, Condition, FieldType, Groups, Hit, Metadata, Record, Scalar, Scope

WRITER_MEMORY_BYTES = 32 << 20
"""Of one open writer; Tantivy wants at least 15 MB. A batch that outgrows it becomes two segments."""
MAX_TERMS = 64
"""Most words of a query that are searched, the rarest. 8,000 characters over 100 k chunks: 3.5 ms; with all, 25 ms."""
MAX_TERMS_WEIGHED = 1_024
"""Words of a query whose frequency is looked up (3 µs each) to find the rarest."""
TIE_MARGIN = 8
"""Hits fetched beyond top_k, to see whether the last score goes on."""
MAX_TIED = 4_096
"""Hits among which the chunk id decides equal scores; beyond that, the place in the index does."""

FORMAT = 1
"""Of what we put into an index; Tantivy counts its own."""

_SIDECAR = "ragline.json"
_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"  # Lucene's; left out of queries only, so that "The Who" is still found
)


class CollectionClosed(Exception):
    """The collection was dropped, or its adapter closed, while the call waited."""


class _View(NamedTuple):
    """The index as of one commit. `restricted`, `everyone`: chunks with and without groups, some deleted ones too."""

    searcher: tantivy.Searcher
    restricted: int
    everyone: int


def create_collection(path: Path, fields: Mapping[str, FieldType]) -> None:
    """Make an empty index in the folder `path`, which exists and is empty."""
    (path / _SIDECAR).write_text(json.dumps({"format": FORMAT, "fields": fields}), "utf-8")
    tantivy.Index(schema(fields), str(path))


class Collection:
    """An open index. `search` and `contents` may be called from any thread, every other method on `thread` only."""

    def __init__(self, path: Path) -> None:
        sidecar = json.loads((path / _SIDECAR).read_text("utf-8"))
        if sidecar["format"] > FORMAT:
            raise ValueError(f"format {sidecar['format']} is newer than {FORMAT}")
        self.fields = {name: FieldType(kind) for name, kind in sidecar["fields"].items()}
        # Tantivy's own threads, merges among them, inherit the priority of the one that begins them.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="tantivy-write", initializer=lower_priority)
        self._columns = columns(self.fields)
        self._analyzer = _analyzer()
        self._stop_words = frozenset(self._analyzer.analyze(_STOP_WORDS))
        self._index = tantivy.Index.open(str(path))
        self._index.config_reader("manual")  # reloaded after each commit, so nothing has to watch files
        self._index.register_tokenizer("words", self._analyzer)
        self._schema = self._index.schema
        self._writer: tantivy.IndexWriter | None = None
        self._closed = False
        self._view = self._look()

    def upsert(self, records: Sequence[Record]) -> None:
        rows = [
            (one.chunk.id, row(stored(one), one.search_text, one.groups, one.fields, self.fields)) for one in records
        ]
        with self._commit() as writer:
            for chunk_id, built in rows:
                writer.delete_documents_by_term("chunk", chunk_id)
                writer.add_document(built)

    def update_payload(self, document: str, title: str, groups: Groups, fields: Metadata) -> None:
        self._check_open()
        searcher, of_document = self._view.searcher, self._term("document", document)
        count = _count(searcher, of_document)
        if not count:
            return
        with self._commit() as writer:
            writer.delete_documents_by_term("document", document)
            for _, address in searcher.search(of_document, count, count=False).hits:
                held = read(searcher, address)._replace(title=title)
                writer.add_document(row(held, held.words, groups, fields, self.fields))

    def delete(self, below: Mapping[str, int]) -> None:
        self._check_open()
        older = [
            _all_of(self._term("document", document), self._range("content", FieldType.INTEGER, None, content - 1))
            for document, content in below.items()
        ]
        due = [query for query in older if _count(self._view.searcher, query)]
        if due:  # a commit costs an fsync, and a new document has nothing older
            with self._commit() as writer:
                for query in due:
                    writer.delete_documents_by_query(query)

    def search(self, query: str, top_k: int, scope: Scope) -> list[Hit]:
        view = self._view
        terms = self._terms(view.searcher, query)
        if not terms:
            return []
        wanted = _any_of(*(self._term("words", term, "freq") for term in terms))
        clauses = [*self._access(view, scope.groups), *((Occur.Must, self._where(one)) for one in scope.conditions)]
        if clauses:
            wanted = Query.boolean_query([(Occur.Must, wanted), *clauses])
        return _ranked(view.searcher, wanted, top_k)

    def contents(self) -> dict[tuple[str, int], int]:
        books = self._view.searcher.terms_with_prefix("book", "", filter_query=Query.all_query())
        parted = ((book.partition(":"), count) for book, count in books)
        return {(document, int(content)): count for (content, _, document), count in parted if count}

    def rest(self) -> None:
        """Close the writer once its merges are done; the next write opens another."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.wait_merging_threads()

    def close(self) -> None:
        """Close for good, without waiting for merges: one that is cut short leaves nothing behind."""
        self._closed = True
        self._writer = None

    @contextmanager
    def _commit(self) -> Iterator[tantivy.IndexWriter]:
        """A writer whose changes are durable and visible at the end of the block, or gone after an error.

        With an error the writer goes too: after a failed commit Tantivy calls the next one done, but its rows are lost.
        It is closed by name, not by losing the last reference: the error's traceback holds one for as long as it lives,
        and an open writer holds the folder's lock.
        """
        self._check_open()
        self._writer = self._writer or self._index.writer(WRITER_MEMORY_BYTES, 1)
        try:
            yield self._writer
            self._writer.commit()
        except BaseException:
            with suppress(ValueError):  # tells again what the error already tells; it is closed all the same
                self.rest()
            raise
        self._view = self._look()

    def _check_open(self) -> None:
        if self._closed:
            raise CollectionClosed

    def _look(self) -> _View:
        self._index.reload()
        searcher = self._index.searcher()
        return _View(searcher, searcher.doc_freq("access", RESTRICTED), searcher.doc_freq("access", EVERYONE))

    def _terms(self, searcher: tantivy.Searcher, query: str) -> list[str]:
        """The query's words, each once: repeating a word in a question does not make it matter more (SciFact +.002)."""
        words = list(dict.fromkeys(self._analyzer.analyze(fold(query))))
        words = [word for word in words if word not in self._stop_words] or words
        if len(words) <= MAX_TERMS:
            return words
        weighed = sorted((searcher.doc_freq("words", word), word) for word in words[:MAX_TERMS_WEIGHED])
        return [word for count, word in weighed if count][:MAX_TERMS]

    def _access(self, view: _View, groups: Groups) -> list[tuple[Occur, Query]]:
        """Groups as clauses that add nothing to a score, in the form that is cheapest for this collection."""
        if not view.restricted:
            return []
        mine = [self._term("access", group_term(group)) for group in sorted(groups)]
        if view.restricted > view.everyone:
            return [(Occur.Must, _unscored(_any_of(self._term("access", EVERYONE), *mine)))]
        hidden = self._term("access", RESTRICTED)
        if mine:
            hidden = Query.boolean_query([(Occur.Must, hidden), (Occur.MustNot, _any_of(*mine))])
        return [(Occur.MustNot, hidden)]

    def _where(self, condition: Condition) -> Query:
        column, kind = self._column(condition.field), self.fields[condition.field]
        if isinstance(condition, AnyOf):
            return _unscored(_any_of(*(self._term(column, value) for value in condition.values)))
        return _unscored(self._range(column, kind, condition.gte, condition.lte))

    def _column(self, name: str) -> str:
        if name not in self._columns:
            raise ValueError(f"field {name} is not declared")
        return self._columns[name]

    def _term(self, column: str, value: Scalar, option: str = "basic") -> Query:
        return Query.term_query(self._schema, column, value, option)

    def _range(self, column: str, kind: FieldType, low: float | None, high: float | None) -> Query:
        if low is None and high is None:
            return Query.exists_query(column)
        number = tantivy.FieldType.Float if kind is FieldType.NUMBER else tantivy.FieldType.Integer
        return Query.range_query(self._schema, column, number, low, high)


def _ranked(searcher: tantivy.Searcher, query: Query, top_k: int) -> list[Hit]:
    """The best `top_k`, ties by chunk id: fetches on until the last score that counts has ended."""
    limit = top_k + TIE_MARGIN
    while True:
        found = [(_steady(score), address) for score, address in searcher.search(query, limit, count=False).hits]
        if len(found) < limit or found[-1][0] < found[top_k - 1][0] or limit >= MAX_TIED:
            break
        limit = max(limit, min(limit * 8, MAX_TIED))
    lowest = found[min(top_k, len(found)) - 1][0] if found else 0.0
    hits = [hit(read(searcher, address), score) for score, address in found if score >= lowest]
    return sorted(hits, key=lambda one: (-one.score, one.chunk.id))[:top_k]


def _steady(score: float) -> float:
    """Five digits: the order in which Tantivy adds up a chunk's words moves the last bits of equal scores."""
    return float(f"{score:.5g}")


def _analyzer() -> tantivy.TextAnalyzer:
    lower = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(tantivy.Filter.remove_long(255))
    folded = lower.filter(tantivy.Filter.lowercase()).filter(tantivy.Filter.ascii_fold())
    return folded.filter(tantivy.Filter.stemmer("english")).build()


def _any_of(*queries: Query) -> Query:
    return queries[0] if len(queries) == 1 else Query.boolean_query([(Occur.Should, query) for query in queries])


def _all_of(*queries: Query) -> Query:
    return Query.boolean_query([(Occur.Must, query) for query in queries])


def _unscored(query: Query) -> Query:
    return Query.const_score_query(query, 0.0)


def _count(searcher: tantivy.Searcher, query: Query) -> int:
    count: int = searcher.search(query, 1, count=True).count  # type: ignore[attr-defined]  # missing from the stub
    return count
