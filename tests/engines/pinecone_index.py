"""One serverless index as the played Pinecone serves it: it keeps vectors, answers exactly, and holds every request to the
published API, version 2026-07 (docs.pinecone.io/reference/api, and the limits of its "Database limits" page).

A write is numbered, and shows after `lag` more reads of its namespace: so nothing is seen that was not waited for.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from tests.engines.played import Answer, Asked

Json = dict[str, Any]

MOST_BYTES = 2_000_000
MOST_RESULT_BYTES = 4_000_000
MOST_METADATA_BYTES = 40_960
MOST_ROWS, MOST_IDS, MOST_HITS, MOST_TERMS, PAGE = 1_000, 1_000, 10_000, 10_000, 100
INVALID, NOT_FOUND, EXISTS = (400, 3), (404, 5), (409, 6)


class Refused(Exception):
    def __init__(self, kind: tuple[int, int], message: str) -> None:
        super().__init__(message)
        self.answer = status(*kind, message)


def status(http: int, code: int, message: str, **headers: str) -> Answer:
    """The body of the data plane's errors (rpcStatus)."""
    return Answer({"code": code, "message": message, "details": []}, status=http, headers=headers)


def require(holds: bool, message: str) -> None:
    if not holds:
        raise Refused(INVALID, message)


class Records:
    """Vectors in a matrix, metadata beside; a row's place changes when another goes."""

    def __init__(self, dim: int) -> None:
        self.places: dict[str, int] = {}
        self.ids: list[str] = []
        self.metadata: list[Json] = []
        self.vectors = np.zeros((16, dim), np.float32)
        self.masks: dict[str, Any] = {}

    def put(self, name: str, values: Any, metadata: Json) -> None:
        self.masks.clear()
        place = self.places.setdefault(name, len(self.ids))
        if place == len(self.ids):
            self.ids.append(name)
            self.metadata.append(metadata)
            if place == len(self.vectors):
                self.vectors = np.concatenate([self.vectors, np.zeros_like(self.vectors)])
        self.vectors[place], self.metadata[place] = values, metadata

    def remove(self, name: str) -> None:
        if name in self.places:
            self.masks.clear()
            place, last = self.places.pop(name), self.ids.pop()
            moved = self.metadata.pop()
            if last != name:
                self.places[last], self.ids[place], self.metadata[place] = place, last, moved
                self.vectors[place] = self.vectors[len(self.ids)]

    def mask(self, where: Json) -> Any:
        key = json.dumps(where)
        if key not in self.masks:
            holds = compiled(where)
            self.masks[key] = np.fromiter((holds(one) for one in self.metadata), bool, len(self.ids))
        return self.masks[key]


@dataclass
class Namespace:
    records: Records
    filterable: frozenset[str] | None = None
    number: int = 0
    indexed: int = 0
    waiting: deque[tuple[int, int, Callable[[], None]]] = field(default_factory=deque)
    reads: int = 0
    fetched_from: dict[str, int] = field(default_factory=dict)
    """Id → the first read at which a fetch or a list shows it."""
    goes: int | None = None
    """Describes until it is gone, once it was deleted."""


class PlayedIndex:
    """`refused`: what was wrong with requests, in the words of the answers."""

    def __init__(self, name: str, dim: int, metric: str, *, lag: int) -> None:
        self.name, self.dim, self.metric, self.lag = name, dim, metric, lag
        self.namespaces: dict[str, Namespace] = {}
        self.refused: list[str] = []
        self.fetch_lag = 0
        """Reads for which a new record is found by searches, but not yet by fetches and lists."""

    def answer(self, asked: Asked) -> Answer:
        url = urlsplit(asked.path)
        words = parse_qs(url.query, keep_blank_values=True)
        known: Mapping[tuple[str, str], Callable[[], Answer]] = {
            ("POST", "/vectors/upsert"): lambda: self._upsert(asked),
            ("POST", "/query"): lambda: self._query(asked.body),
            ("GET", "/vectors/fetch"): lambda: self._fetch(words),
            ("GET", "/vectors/list"): lambda: self._list(words),
            ("POST", "/vectors/delete"): lambda: self._delete(asked.body),
            ("POST", "/vectors/update"): lambda: self._update(asked.body),
            ("GET", "/namespaces"): lambda: self._list_namespaces(words),
            ("POST", "/namespaces"): lambda: self._make(asked.body),
        }
        try:
            if asked.method == "POST":
                assert asked.headers["content-type"] == "application/json"
                assert isinstance(asked.body, dict)
            if (asked.method, url.path) in known:
                return known[asked.method, url.path]()
            assert url.path.startswith("/namespaces/"), f"there is no {asked.method} {url.path}"
            return self._one_namespace(asked.method, unquote(url.path.removeprefix("/namespaces/")))
        except Refused as refused:
            if refused.answer.status == 400:
                self.refused.append(str(refused))
            return refused.answer

    # ── writes ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _upsert(self, asked: Asked) -> Answer:
        body = asked.body
        assert body.keys() <= {"vectors", "namespace"}
        size = int(asked.headers["content-length"])
        require(size <= MOST_BYTES, f"Request size {size} is over the limit of {MOST_BYTES} bytes")
        require(1 <= len(body["vectors"]) <= MOST_ROWS, f"{len(body['vectors'])} vectors; 1 to {MOST_ROWS} are taken")
        rows = [self._checked(one) for one in body["vectors"]]
        where = self._space(body, make=True)
        assert where.goes is None, "written while the namespace is being deleted"

        def put() -> None:
            for row in rows:
                if row[0] not in where.records.places:
                    where.fetched_from[row[0]] = where.reads + self.fetch_lag
                where.records.put(*row)

        return Answer({"upsertedCount": len(rows)}, headers=self._written(where, put))

    def _checked(self, one: Json) -> tuple[str, Any, Json]:
        assert one.keys() <= {"id", "values", "metadata"}
        _check_id(one["id"])
        values, metadata = one["values"], one.get("metadata", {})
        require(
            len(values) == self.dim,
            f"Vector dimension {len(values)} does not match the dimension of the index {self.dim}",
        )
        require(all(type(x) in (int, float) and math.isfinite(x) for x in values), "values must be finite numbers")
        require(any(values), "Dense vectors must contain at least one non-zero value")
        _check_metadata(metadata)
        return one["id"], np.array(values, np.float32), metadata

    def _delete(self, body: Json) -> Answer:
        assert body.keys() == {"ids", "namespace"}, "one selector, and the namespace"
        require(1 <= len(body["ids"]) <= MOST_IDS, f"{len(body['ids'])} ids; 1 to {MOST_IDS} are taken")
        for name in body["ids"]:
            _check_id(name)
        where = self._space(body)

        def remove() -> None:
            for name in body["ids"]:
                where.records.remove(name)

        return Answer({}, headers=self._written(where, remove))

    def _update(self, body: Json) -> Answer:
        assert body.keys() == {"id", "setMetadata", "namespace"}, "the selectors and patches that are played"
        _check_id(body["id"])
        _check_metadata(body["setMetadata"])
        where = self._space(body)

        def patch() -> None:
            place = where.records.places.get(body["id"])
            if place is not None:
                where.records.masks.clear()
                where.records.metadata[place] = {**where.records.metadata[place], **body["setMetadata"]}

        return Answer({}, headers=self._written(where, patch))

    def _written(self, where: Namespace, change: Callable[[], None]) -> dict[str, str]:
        where.number += 1
        where.waiting.append((where.number, where.reads + self.lag, change))
        return {"x-pinecone-request-lsn": str(where.number)}

    # ── reads ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, name: str) -> Namespace | None:
        where = self.namespaces.get(name)
        if where is not None:
            where.reads += 1
            while where.waiting and where.waiting[0][1] < where.reads:
                where.indexed, _, change = where.waiting.popleft()
                change()
        return where

    def _query(self, body: Json) -> Answer:
        assert body.keys() <= {"topK", "vector", "namespace", "filter", "includeValues", "includeMetadata"}
        require(1 <= body["topK"] <= MOST_HITS, f"topK must be 1 to {MOST_HITS}")
        vector = np.array(body["vector"], np.float32)
        require(
            vector.shape == (self.dim,),
            f"Query vector dimension {vector.size} does not match the dimension of the index {self.dim}",
        )
        require(bool(np.isfinite(vector).all()), "vector must be finite numbers")
        check_filter(body.get("filter", {}))
        name = body.get("namespace", "")
        where = self._read(name)
        if where is None:
            return Answer({"matches": [], "namespace": name, "usage": {"readUnits": 1}})
        if where.filterable is not None:
            unknown = set(_fields(body.get("filter", {}))) - where.filterable
            assert not unknown, f"{unknown} are not filterable in {name}"
        found = self._nearest(where.records, vector, body)
        content = json.dumps({"matches": found, "namespace": name, "usage": {"readUnits": 1}}).encode()
        require(len(content) <= MOST_RESULT_BYTES, "The result of the query is over the limit of 4MB")
        return Answer(content, headers={"x-pinecone-max-indexed-lsn": str(where.indexed)})

    def _nearest(self, records: Records, vector: Any, body: Json) -> list[Json]:
        rows = np.arange(len(records.ids))
        if body.get("filter"):
            rows = rows[records.mask(body["filter"])]
        scores = records.vectors[: len(records.ids)] @ vector
        if self.metric == "cosine":
            lengths = np.linalg.norm(records.vectors[: len(records.ids)], axis=1) * np.linalg.norm(vector)
            scores = scores / np.where(lengths == 0, 1, lengths)
        scores = scores[rows]
        best = (
            np.argpartition(-scores, body["topK"])[: body["topK"]] if len(rows) > body["topK"] else np.arange(len(rows))
        )
        best = best[np.argsort(-scores[best], kind="stable")]
        return [
            {
                "id": records.ids[rows[at]], "score": float(scores[at]),
                **({"values": records.vectors[rows[at]].tolist()} if body.get("includeValues") else {"values": []}),
                **({"metadata": records.metadata[rows[at]]} if body.get("includeMetadata") else {}),
            }
            for at in best
        ]  # fmt: skip

    def _fetch(self, words: Mapping[str, list[str]]) -> Answer:
        assert words.keys() <= {"ids", "namespace"}
        require(1 <= len(words["ids"]) <= MOST_IDS, f"1 to {MOST_IDS} ids are taken")
        name = words.get("namespace", [""])[0]
        where = self._read(name)
        found = {}
        for one in words["ids"]:
            _check_id(one)
            if where is not None and one in where.records.places and where.fetched_from[one] <= where.reads:
                place = where.records.places[one]
                values = where.records.vectors[place].tolist()
                found[one] = {"id": one, "values": values, "metadata": where.records.metadata[place]}
        return Answer({"vectors": found, "namespace": name, "usage": {"readUnits": 1}})

    def _list(self, words: Mapping[str, list[str]]) -> Answer:
        assert words.keys() <= {"prefix", "limit", "paginationToken", "namespace"}
        prefix = words.get("prefix", [""])[0]
        require(prefix.isascii() and " " not in prefix and len(prefix) <= 512, "prefix is not valid")
        where = self._read(words.get("namespace", [""])[0])
        shown = [name for name in where.records.places if where.fetched_from[name] <= where.reads] if where else []
        names = sorted(name for name in shown if name.startswith(prefix))
        page, after = _page(names, words)
        return Answer({"vectors": [{"id": one} for one in page], **after, "usage": {"readUnits": 1}})

    # ── namespaces ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _space(self, body: Json, *, make: bool = False) -> Namespace:
        name = body.get("namespace", "")
        if name not in self.namespaces:
            if not make:
                raise Refused(NOT_FOUND, "Namespace not found")
            _check_id(name)
            self.namespaces[name] = Namespace(Records(self.dim))
        return self.namespaces[name]

    def _make(self, body: Json) -> Answer:
        assert body.keys() <= {"name", "schema"}
        _check_id(body["name"])
        if body["name"] in self.namespaces:
            assert self.namespaces[body["name"]].goes is None, "made while it is being deleted"
            raise Refused(EXISTS, "Namespace already exists")
        fields = body["schema"]["fields"]
        require(all(one == {"filterable": True} for one in fields.values()), "Only filterable: true is supported")
        self.namespaces[body["name"]] = Namespace(Records(self.dim), frozenset(fields))
        return Answer(self._told(body["name"]))

    def _one_namespace(self, method: str, name: str) -> Answer:
        where = self.namespaces.get(name)
        if where is not None and where.goes is not None:
            where.goes -= 1
            if where.goes < 0:
                del self.namespaces[name]
                where = None
        if where is None:
            raise Refused(NOT_FOUND, f"Namespace {name} not found")
        if method == "DELETE":
            where.goes = self.lag
            return Answer({})
        assert method == "GET"
        return Answer(self._told(name))

    def _list_namespaces(self, words: Mapping[str, list[str]]) -> Answer:
        assert words.keys() <= {"prefix", "limit", "paginationToken"}
        names = sorted(name for name in self.namespaces if name.startswith(words.get("prefix", [""])[0]))
        page, after = _page(names, words)
        return Answer({"namespaces": [self._told(name) for name in page], **after, "total_count": len(names)})

    def _told(self, name: str) -> Json:
        where = self.namespaces[name]
        told: Json = {"name": name, "record_count": str(len(where.records.ids)), "size_bytes": "0"}
        if where.filterable is not None:
            told["schema"] = {"fields": {one: {"filterable": True} for one in sorted(where.filterable)}}
        return told


def _page(names: list[str], words: Mapping[str, list[str]]) -> tuple[list[str], Json]:
    limit = int(words.get("limit", [str(PAGE)])[0])
    require(1 <= limit <= PAGE, f"limit must be 1 to {PAGE}")
    last = words.get("paginationToken", [""])[0]
    rest = [name for name in names if name > last]
    return rest[:limit], {"pagination": {"next": rest[limit - 1]}} if len(rest) > limit else {}


def _check_id(name: object) -> None:
    require(isinstance(name, str) and 1 <= len(name) <= 512, "an id has 1 to 512 characters")
    require(str(name).isascii() and "\0" not in str(name), f"Vector ID must be ASCII, but got {name!r}")


def _check_metadata(metadata: Json) -> None:
    for name, value in metadata.items():
        require(bool(name) and not name.startswith("$"), f"{name!r} is no metadata key")
        words = isinstance(value, list) and all(isinstance(one, str) for one in value)
        require(
            words or isinstance(value, str | bool | int | float),
            f"Metadata value must be a string, number, boolean or list of strings, got {value!r} for field {name!r}",
        )
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    require(
        size <= MOST_METADATA_BYTES,
        f"Metadata size is {size} bytes, which exceeds the limit of {MOST_METADATA_BYTES} bytes per vector",
    )


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | bool | int | float)


_OPERATORS: Mapping[str, Callable[[Any], bool]] = {
    "$eq": _is_scalar, "$ne": _is_scalar, "$gt": _is_number, "$gte": _is_number, "$lt": _is_number, "$lte": _is_number,
    "$in": lambda given: isinstance(given, list) and all(isinstance(x, str) or _is_number(x) for x in given),
    "$nin": lambda given: isinstance(given, list) and all(isinstance(x, str) or _is_number(x) for x in given),
    "$exists": lambda given: isinstance(given, bool),
}  # fmt: skip


def check_filter(where: Any) -> None:
    require(isinstance(where, dict), "a filter is an object")
    for name, given in where.items():
        if name in ("$and", "$or"):
            require(isinstance(given, list) and len(given) > 0, f"{name} takes a list of filters")
            for one in given:
                check_filter(one)
            continue
        require(not name.startswith("$"), f"{name} is no operator at this level")
        require(isinstance(given, dict) and len(given) == 1, f"{name} takes one operator")
        ((operator, operand),) = given.items()
        require(operator in _OPERATORS, f"{operator} is not a valid operator")
        require(_OPERATORS[operator](operand), f"the {operator} operator does not take {operand!r}")
        if isinstance(operand, list):
            require(len(operand) <= MOST_TERMS, f"{operator} takes {MOST_TERMS} values")


def _fields(where: Json) -> list[str]:
    found: list[str] = []
    for name, given in where.items():
        found += [field for one in given for field in _fields(one)] if name in ("$and", "$or") else [name]
    return found


def compiled(where: Json) -> Callable[[Json], bool]:
    tests = [_compiled(name, given) for name, given in where.items()]
    return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)


def _compiled(name: str, given: Any) -> Callable[[Json], bool]:
    if name == "$and":
        every = [compiled(one) for one in given]
        return lambda row: all(test(row) for test in every)
    if name == "$or":
        some = [compiled(one) for one in given]
        return lambda row: any(test(row) for test in some)
    ((operator, operand),) = given.items()
    if operator == "$exists":
        return lambda row: (name in row) is operand
    terms = frozenset(operand if isinstance(operand, list) else [operand])
    match operator:
        case "$eq" | "$in":
            return lambda row: not terms.isdisjoint(_values(row, name))
        case "$ne" | "$nin":
            return lambda row: terms.isdisjoint(_values(row, name))
        case "$gt":
            return lambda row: any(_is_number(one) and one > operand for one in _values(row, name))
        case "$gte":
            return lambda row: any(_is_number(one) and one >= operand for one in _values(row, name))
        case "$lt":
            return lambda row: any(_is_number(one) and one < operand for one in _values(row, name))
    return lambda row: any(_is_number(one) and one <= operand for one in _values(row, name))


def _values(row: Json, name: str) -> list[Any]:
    value = row.get(name, ())
    return value if isinstance(value, list) else [value] if value != () else []
