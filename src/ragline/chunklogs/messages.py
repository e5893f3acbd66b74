"""A chunk message as bytes: JSON, so that a producer or consumer in any language can speak it (docs/adr/0015).

    {"v": 1, "namespace": "…", "doc_id": "…", "chunk_id": "…", "content": 7, "ordinal": 0, "count": 3, "text": "…"}
    … and for an embedded one: "space": "…", "vector": "base64 of little-endian float32"

Whoever reads a log may meet anything: `decoded` says what is wrong with it, in words for the dead letters, without the text.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from typing import Any

import numpy as np

from ragline.chunking import chunk_id
from ragline.types import ChunkMessage, Topic

VERSION = 1

MOST_COUNT = 10_000_000
"""Chunks of one content that are believed: what waits for its rest is kept in memory by `count`."""


class Undecodable(Exception):
    """The message is no valid chunk; the words say why."""


def encoded(message: ChunkMessage) -> bytes:
    values: dict[str, object] = {
        "v": VERSION, "namespace": message.namespace, "doc_id": message.doc_id, "chunk_id": message.chunk_id,
        "content": message.content, "ordinal": message.ordinal, "count": message.count, "text": message.text,
    }  # fmt: skip
    if message.vector:
        values |= {"space": message.space, "vector": b64encode(message.vector).decode("ascii")}
    try:
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a surrogate pair, as some documents hold: escaped, it is valid UTF-8
        return json.dumps(values, separators=(",", ":")).encode()


def decoded(value: bytes | None, topic: Topic) -> ChunkMessage:
    """Fields that are not known are passed over, so that a later version may add some. Raises Undecodable."""
    try:
        values = json.loads(value or b"")
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"It is not JSON: {type(error).__name__}.") from None
    if not isinstance(values, dict):
        raise Undecodable("It is not a JSON object.")
    if values.get("v") != VERSION:
        raise Undecodable(f"Its version (v) is not {VERSION}.")
    message = ChunkMessage(
        namespace=_text(values, "namespace"), doc_id=_text(values, "doc_id"), chunk_id=_text(values, "chunk_id"),
        content=_number(values, "content"), ordinal=_number(values, "ordinal"), count=_number(values, "count"),
        text=_text(values, "text"), space=_text(values, "space") if topic == "doc_vectors" else "",
        vector=_vector(values) if topic == "doc_vectors" else b"",
    )  # fmt: skip
    if not message.ordinal < message.count <= MOST_COUNT:
        raise Undecodable(f"Its ordinal {message.ordinal} and count {message.count} do not fit.")
    if message.chunk_id != chunk_id(message.namespace, message.doc_id, message.content, message.ordinal):
        raise Undecodable("Its chunk_id is not that of its namespace, doc_id, content and ordinal.")
    return message


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise Undecodable(f"Its {name} is not a string.")
    return value


def _number(values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Undecodable(f"Its {name} is not a whole number from 0.")
    return value


def _vector(values: dict[str, Any]) -> bytes:
    try:
        vector = b64decode(_text(values, "vector"), validate=True)
    except (binascii.Error, ValueError):
        raise Undecodable("Its vector is not base64.") from None
    if not vector or len(vector) % 4:
        raise Undecodable(f"Its vector of {len(vector)} bytes is not float32.")
    if not np.isfinite(np.frombuffer(vector, "<f4")).all():
        raise Undecodable("Its vector holds a number that is not finite.")
    return vector
