"""Passages, answers and requests as bytes, and back: for what outlives a process, the hot cache and the job store."""

from __future__ import annotations

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from ragline.types import Answer, Retrieved, SearchRequest

_RETRIEVED: TypeAdapter[Retrieved] = TypeAdapter(Retrieved)
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
_REQUEST: TypeAdapter[SearchRequest] = TypeAdapter(SearchRequest)


def dump_retrieved(retrieved: Retrieved) -> bytes:
    return _RETRIEVED.dump_json(retrieved)


def load_retrieved(data: bytes) -> Retrieved:
    """Raises ValueError: these bytes are no passages."""
    return _RETRIEVED.validate_json(data)


def dump_answer(answer: Answer) -> bytes:
    return _ANSWER.dump_json(answer)


def load_answer(data: bytes) -> Answer:
    """Raises ValueError: these bytes are no answer."""
    return _ANSWER.validate_json(data)


def dump_request(request: SearchRequest, traceparent: str = "") -> bytes:
    """`traceparent`: lies beside what is asked, so that no store needs a column for it; other versions pass it over."""
    data = _REQUEST.dump_json(request)
    return data if not traceparent else data[:-1] + b',"traceparent":' + to_json(traceparent) + b"}"


def load_request(data: bytes | str) -> SearchRequest:
    """Raises ValueError: these bytes are no request."""
    return _REQUEST.validate_json(data)


def load_traceparent(data: bytes | str) -> str:
    """Of a request; empty: nobody traced it. Raises ValueError: these bytes are no request."""
    if (b"traceparent" if isinstance(data, bytes) else "traceparent") not in data:  # type: ignore[operator]
        return ""
    found = from_json(data).get("traceparent", "")
    return found if isinstance(found, str) else ""
