from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragline.errors import InvalidRequest
from ragline.filters import MAX_KEYWORD_BYTES, MAX_VALUES, coerce_metadata, matches, parse_filters
from ragline.types import AnyOf, Between, FieldType, Metadata, Scope

FIELDS = {kind.value: kind for kind in FieldType}
NOON_MS = 1_685_620_800_000  # 2023-06-01T12:00:00Z, by hand: 19,509 days and 12 hours
JUNE_MS = NOON_MS - 43_200_000

raw_values: dict[FieldType, st.SearchStrategy[Any]] = {
    FieldType.KEYWORD: st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    FieldType.INTEGER: st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1),
    FieldType.NUMBER: st.integers(-5, 5) | st.floats(allow_nan=False, allow_infinity=False),
    FieldType.BOOLEAN: st.booleans(),
    FieldType.DATE: st.dates().map(str)
    | st.datetimes(timezones=st.none() | st.just(dt.UTC)).map(dt.datetime.isoformat),
}
named = st.sampled_from(list(FieldType)).flatmap(lambda kind: st.tuples(st.just(kind.value), raw_values[kind]))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["gte", "lte", "gt"]), inner),
    max_leaves=5,
)


def one(name: str, wanted: object) -> AnyOf | Between:
    (condition,) = parse_filters({name: wanted}, FIELDS)
    return condition


def test_every_type_by_hand() -> None:
    assert one("keyword", "a") == AnyOf("keyword", ("a",))
    assert one("keyword", ["a", "b", "a"]) == AnyOf("keyword", ("a", "b"))
    assert one("integer", 2023) == AnyOf("integer", (2023,))
    assert one("integer", {"gte": 2020, "lte": 2023.0}) == Between("integer", 2020, 2023)
    assert one("number", {"lte": 0.5}) == Between("number", None, 0.5)
    assert one("boolean", True) == AnyOf("boolean", (True,))
    assert one("date", "2023-06-01T12:00:00Z") == AnyOf("date", (NOON_MS,))
    assert one("date", "2023-06-01T14:00:00+02:00") == AnyOf("date", (NOON_MS,))
    assert one("date", "2023-06-01T12:00:00") == AnyOf("date", (NOON_MS,))


def test_a_day_as_an_upper_bound_means_its_end() -> None:
    assert one("date", {"gte": "2023-06-01", "lte": "2023-06-01"}) == Between("date", JUNE_MS, JUNE_MS + 86_399_999)
    assert one("date", "2023-06-01") == AnyOf("date", (JUNE_MS,))


def test_all_conditions_in_the_order_given() -> None:
    assert parse_filters({"number": 1, "keyword": "a"}, FIELDS) == (AnyOf("number", (1.0,)), AnyOf("keyword", ("a",)))
    assert parse_filters({}, FIELDS) == ()


@pytest.mark.parametrize(
    ("filters", "field", "reason", "next_step"),
    [
        ({"colour": "red"}, "filters.colour", "not declared", "boolean (boolean), date (date)"),
        ({"keyword": []}, "filters.keyword", "empty list", "at least one value"),
        ({"keyword": 3}, "filters.keyword", "this number is not one", "a string"),
        ({"keyword": None}, "filters.keyword", "this null is not one", "a string"),
        ({"keyword": ["a", None]}, "filters.keyword", "this null is not one", "a string"),
        ({"keyword": [["a"]]}, "filters.keyword", "this list is not one", "a string"),
        ({"keyword": "\ud800"}, "filters.keyword", "this string is not one", "a string"),
        ({"keyword": "x" * (MAX_KEYWORD_BYTES + 1)}, "filters.keyword", "this string is not one", "32,766 bytes"),
        ({"keyword": {"gte": "a"}}, "filters.keyword", "has no ranges", "a list of values"),
        ({"boolean": {"gte": False}}, "filters.boolean", "has no ranges", "a list of values"),
        ({"boolean": 1}, "filters.boolean", "this number is not one", "true or false"),
        ({"integer": True}, "filters.integer", "this boolean is not one", "whole number"),
        ({"integer": "2023"}, "filters.integer", "this string is not one", "whole number"),
        ({"integer": 1.5}, "filters.integer", "this number is not one", "whole number"),
        ({"integer": 2**63}, "filters.integer", "this number is not one", "64 bits"),
        ({"integer": float("inf")}, "filters.integer", "this number is not one", "whole number"),
        ({"integer": {"gt": 1}}, "filters.integer", "unknown operator 'gt'", "gte (at least) and lte"),
        ({"integer": {"gte": 2, "lte": 1}}, "filters.integer", "gte above lte", "Exchange"),
        ({"integer": {}}, "filters.integer", "empty range", "gte, lte or both"),
        ({"integer": {"gte": None}}, "filters.integer.gte", "this null is not one", "whole number"),
        ({"integer": {"lte": [1]}}, "filters.integer.lte", "this list is not one", "whole number"),
        ({"number": float("nan")}, "filters.number", "this number is not one", "finite"),
        ({"number": 10**400}, "filters.number", "this number is not one", "finite"),
        ({"number": 2**63}, "filters.number", "this number is not one", "64 bits"),
        ({"number": True}, "filters.number", "this boolean is not one", "finite"),
        ({"date": "yesterday"}, "filters.date", "this string is not one", "ISO-8601"),
        ({"date": NOON_MS}, "filters.date", "this number is not one", "ISO-8601"),
        ({"keyword": ["a"] * (MAX_VALUES + 1)}, "filters.keyword", "1,001 values", "at most 1,000"),
    ],
)
def test_a_refusal_names_the_field_the_reason_and_the_next_step(
    filters: Mapping[str, object], field: str, reason: str, next_step: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_filters(filters, FIELDS)
    assert refused.value.field == field
    assert reason in refused.value.message
    assert next_step in refused.value.next_step


def test_metadata_is_normalised_and_the_undeclared_left_out() -> None:
    metadata = {"keyword": ["a", "b"], "integer": 3.0, "date": "2023-06-01", "number": None, "boolean": [], "other": {}}
    assert coerce_metadata(metadata, FIELDS) == {"keyword": ("a", "b"), "integer": 3, "date": JUNE_MS}


def test_metadata_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        coerce_metadata({"integer": "3"}, FIELDS)
    assert refused.value.field == "metadata.integer"


def test_matches_by_hand() -> None:
    held: Metadata = {"keyword": ("a", "b"), "integer": (1, 9)}
    assert matches(held, frozenset(), Scope(conditions=(AnyOf("keyword", ("b", "z")), Between("integer", 8, None))))
    assert not matches(held, frozenset(), Scope(conditions=(Between("integer", 2, 8),)))  # no one value lies in it
    assert not matches(held, frozenset(), Scope(conditions=(AnyOf("keyword", ("b",)), AnyOf("number", (1.0,)))))
    assert matches({}, frozenset(), Scope())
    assert not matches({}, frozenset({"staff"}), Scope())
    assert matches({}, frozenset({"staff", "board"}), Scope(groups=frozenset({"board"})))


@given(named)
def test_what_is_stored_is_found_by_the_same_value(pair: tuple[str, Any]) -> None:
    name, value = pair
    held = coerce_metadata({name: value}, FIELDS)
    assert matches(held, frozenset(), Scope(conditions=(one(name, value),)))
    assert matches(held, frozenset(), Scope(conditions=(one(name, [value]),)))
    if FIELDS[name] not in (FieldType.KEYWORD, FieldType.BOOLEAN):
        assert matches(held, frozenset(), Scope(conditions=(one(name, {"gte": value, "lte": value}),)))


@given(st.integers(-5, 5), st.lists(st.integers(-5, 5), min_size=1), st.integers(-5, 5), st.integers(-5, 5))
def test_a_range_is_both_of_its_halves(value: int, others: list[int], low: int, high: int) -> None:
    held = coerce_metadata({"integer": value}, FIELDS)

    def within(wanted: object) -> bool:
        return matches(held, frozenset(), Scope(conditions=(one("integer", wanted),)))

    low, high = min(low, high), max(low, high)
    assert within({"gte": low, "lte": high}) == (within({"gte": low}) and within({"lte": high}))
    assert within(others) == any(within(other) for other in others)


@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), anything))
def test_anything_is_either_parsed_or_refused(given_by_client: dict[str, object]) -> None:
    refused: InvalidRequest | None = None
    names: list[str] = []
    try:
        names = [condition.field for condition in parse_filters(given_by_client, FIELDS)]
    except InvalidRequest as error:
        refused = error
    assert names == list(given_by_client) if refused is None else refused.field and refused.next_step


@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), anything))
def test_any_metadata_is_either_normalised_or_refused(given_by_client: dict[str, object]) -> None:
    refused: InvalidRequest | None = None
    held: Metadata = {}
    try:
        held = coerce_metadata(given_by_client, FIELDS)
    except InvalidRequest as error:
        refused = error
    assert set(held) <= set(FIELDS) & set(given_by_client)
    assert refused is None or (refused.field or "").startswith("metadata.")
