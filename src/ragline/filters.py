"""The filter grammar: what a client may ask of metadata, checked once, so that no store meets a wrong type.

    {field: value | [values] | {"gte": low, "lte": high}}        all must hold; fields are declared per namespace

Pure. The API parses a request's filters with `parse_filters`, the ingest path normalises a document's metadata with
`coerce_metadata`: both through the same table of types, so what is stored and what is asked always compare.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence

from ragline.errors import InvalidRequest
from ragline.types import AnyOf, Between, Condition, FieldType, Groups, Metadata, Scalar, Scope

MAX_VALUES = 1_000
"""Values of one filter or one metadata field; every engine takes a clause of so many terms."""
MAX_KEYWORD_BYTES = 32_766
"""UTF-8 bytes of a keyword: what Lucene takes as one term, the smallest such limit among the engines."""
DAY_MS = 86_400_000
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_RANGES = (FieldType.INTEGER, FieldType.NUMBER, FieldType.DATE)
_EXAMPLES = {
    FieldType.KEYWORD: f'a string of at most {MAX_KEYWORD_BYTES:,} bytes, such as "report"',
    FieldType.INTEGER: "a whole number of at most 64 bits, such as 2023",
    FieldType.NUMBER: "a finite number, such as 0.5; a whole one of at most 64 bits",
    FieldType.BOOLEAN: "true or false",
    FieldType.DATE: 'an ISO-8601 date or time, such as "2023-06-01" or "2023-06-01T12:00:00Z"',
}


def parse_filters(filters: Mapping[str, object], fields: Mapping[str, FieldType]) -> tuple[Condition, ...]:
    """Check `filters` against the declared `fields`, in the order given.

    Dates:   become integer milliseconds since 1970; without a zone they are UTC. A date without a time means its
             midnight, but as an upper bound (`lte`) the end of that day.
    Raises:  InvalidRequest: an undeclared field, a wrong type, an empty list or range, an unknown operator, bounds the
             wrong way round, a range on a keyword or a boolean. Names the field, the reason and the next step.
    """
    return tuple(_condition(f"filters.{name}", name, wanted, fields) for name, wanted in filters.items())


def coerce_metadata(metadata: Mapping[str, object], fields: Mapping[str, FieldType]) -> Metadata:
    """The declared part of a document's metadata, of the declared types: what the stores index and filter on.

    A list holds as any of its values; None and an empty list are as if absent; undeclared fields are left out.
    Raises InvalidRequest on a wrong type.
    """
    kept: dict[str, Scalar | Sequence[Scalar]] = {}
    for name, kind in fields.items():
        given = metadata.get(name)
        if given is None or given == [] or given == ():
            continue
        path = f"metadata.{name}"
        kept[name] = _values(path, given, kind) if isinstance(given, list | tuple) else _scalar(path, given, kind)
    return kept


def matches(fields: Metadata, groups: Groups, scope: Scope) -> bool:
    """Whether a chunk with these (coerced) fields and groups is in `scope`: the reference every store is held to."""
    if groups and groups.isdisjoint(scope.groups):
        return False
    return all(_holds(condition, fields.get(condition.field)) for condition in scope.conditions)


def _holds(condition: Condition, held: Scalar | Sequence[Scalar] | None) -> bool:
    if held is None:
        return False
    values = (held,) if isinstance(held, str | int | float) else held
    if isinstance(condition, AnyOf):
        return any(value in condition.values for value in values)
    low = -math.inf if condition.gte is None else condition.gte
    high = math.inf if condition.lte is None else condition.lte
    return any(not isinstance(value, str) and low <= value <= high for value in values)


def _condition(path: str, name: str, wanted: object, fields: Mapping[str, FieldType]) -> Condition:
    kind = fields.get(name)
    if kind is None:
        declared = ", ".join(f"{field} ({kind})" for field, kind in sorted(fields.items())) or "none so far"
        raise InvalidRequest(
            f"Filter field {name!r} is not declared in this namespace.",
            next_step=f"Use a declared one: {declared}.",
            field=path,
        )
    if isinstance(wanted, Mapping):
        return _between(path, name, wanted, kind)
    if not isinstance(wanted, list | tuple):
        return AnyOf(name, (_scalar(path, wanted, kind),))
    if not wanted:
        raise InvalidRequest(
            f"Filter field {name!r} has an empty list, which nothing can match.",
            next_step="Give at least one value, or leave the field out.",
            field=path,
        )
    return AnyOf(name, tuple(dict.fromkeys(_values(path, wanted, kind))))


def _between(path: str, name: str, bounds: Mapping[object, object], kind: FieldType) -> Between:
    def refuse(reason: str, next_step: str) -> InvalidRequest:
        return InvalidRequest(f"Filter field {name!r} {reason}.", next_step=next_step, field=path)

    if kind not in _RANGES:
        raise refuse(f"is a {kind} and has no ranges", "Give a value or a list of values.")
    unknown = sorted(str(operator) for operator in bounds if operator not in ("gte", "lte"))
    if unknown:
        raise refuse(f"has the unknown operator {unknown[0]!r}", "Use gte (at least) and lte (at most).")
    if not bounds:
        raise refuse("has an empty range", "Give gte, lte or both.")
    low, high = (
        _number(_scalar(f"{path}.{end}", bounds[end], kind, upper=end == "lte")) if end in bounds else None
        for end in ("gte", "lte")
    )
    if low is not None and high is not None and low > high:
        raise refuse("has gte above lte, which nothing can match", "Exchange the bounds.")
    return Between(name, low, high)


def _values(path: str, given: Sequence[object], kind: FieldType) -> tuple[Scalar, ...]:
    if len(given) > MAX_VALUES:
        raise InvalidRequest(
            f"{path} has {len(given):,} values.", next_step=f"Give at most {MAX_VALUES:,}.", field=path
        )
    return tuple(_scalar(path, value, kind) for value in given)


def _scalar(path: str, value: object, kind: FieldType, *, upper: bool = False) -> Scalar:
    checked = _to_date_ms(value, upper=upper) if kind is FieldType.DATE else _CHECKS[kind](value)
    if checked is None:
        raise InvalidRequest(
            f"{path} is declared as {kind}; this {_kind_of(value)} is not one.",
            next_step=f"Give {_EXAMPLES[kind]}.",
            field=path,
        )
    return checked


def _to_keyword(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        size = len(value.encode())
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can carry it, no engine can
        return None
    return value if size <= MAX_KEYWORD_BYTES else None


def _to_integer(value: object) -> int | None:
    """JSON's integer: 2020.0 is one, true is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


def _to_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    number = float(value) + 0.0  # -0.0 becomes 0.0: engines that compare bytes tell them apart
    return number if math.isfinite(number) else None


def _to_boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _to_date_ms(value: object, *, upper: bool) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        day = dt.date.fromisoformat(value)
    except ValueError:
        pass
    else:
        return (day - _EPOCH.date()).days * DAY_MS + (DAY_MS - 1 if upper else 0)
    try:
        moment = dt.datetime.fromisoformat(value)
    except ValueError:
        return None
    return ((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)) - _EPOCH) // dt.timedelta(milliseconds=1)


_CHECKS: Mapping[FieldType, Callable[[object], Scalar | None]] = {
    FieldType.KEYWORD: _to_keyword,
    FieldType.INTEGER: _to_integer,
    FieldType.NUMBER: _to_number,
    FieldType.BOOLEAN: _to_boolean,
}


def _number(value: Scalar) -> int | float:
    assert not isinstance(value, str)  # ranges exist on numbers only
    return value


def _kind_of(value: object) -> str:
    """What JSON calls it; the value itself may be a user's text and stays out of messages."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", tuple: "list"}
    return names.get(type(value), "object" if isinstance(value, Mapping) else type(value).__name__)
