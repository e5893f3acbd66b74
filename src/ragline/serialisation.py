"""Passages, answers and requests as bytes, and back: for what outlives a process, the hot cache and the job store."""

from __future__ import annotations

from pydantic import TypeAdapter

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


def dump_request(request: SearchRequest) -> bytes:
    return _REQUEST.dump_json(request)


def load_request(data: bytes | str) -> SearchRequest:
    """Raises ValueError: these bytes are no request."""
    return _REQUEST.validate_json(data)
