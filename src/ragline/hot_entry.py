"""An entry of the hot cache as bytes: what was found, when, and under which key.

    RLH1 │ crc32 of the rest │ made at (float64) │ key (16 bytes) │ zlib of the payload

Whatever lies in a cache may be somebody else's, half of something, or of another version: it is told apart here.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

MAGIC = b"RLH1"
"""Raise the digit whenever an older reader would misread what is written."""

OURS = b"RLH"
LEVEL = 1
"""Of zlib: passages become 2.5 times as small; a higher level saves a tenth more and takes three times as long."""

MOST_BYTES = 64 << 20
"""Of a payload, unpacked."""

_HEAD = struct.Struct(">4sI")
_ABOUT = struct.Struct(">d16s")

Fault: TypeAlias = Literal["foreign", "version", "damaged", "misplaced"]
"""Not ours at all; of another version; not as it was written; written under another key."""


class Unusable(Exception):
    """These bytes are no entry of ours under this key."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Entry:
    """Units: `made_at` seconds since 1970, by the clock of whoever made it."""

    made_at: float
    payload: bytes


def dump_entry(payload: bytes, *, key: str, made_at: float) -> bytes:
    """`key`: 32 hexadecimal digits."""
    rest = _ABOUT.pack(made_at, bytes.fromhex(key)) + zlib.compress(payload, LEVEL)
    return _HEAD.pack(MAGIC, zlib.crc32(rest)) + rest


def load_entry(data: bytes, *, key: str) -> Entry:
    """Raises Unusable."""
    if not data.startswith(OURS):
        raise Unusable("foreign")
    if not data.startswith(MAGIC):
        raise Unusable("version")
    if len(data) < _HEAD.size + _ABOUT.size:
        raise Unusable("damaged")
    _, checksum = _HEAD.unpack_from(data)
    rest = memoryview(data)[_HEAD.size :]
    if zlib.crc32(rest) != checksum:
        raise Unusable("damaged")
    made_at, digest = _ABOUT.unpack_from(rest)
    if digest != bytes.fromhex(key):
        raise Unusable("misplaced")
    unpacking = zlib.decompressobj()
    try:
        payload = unpacking.decompress(rest[_ABOUT.size :], MOST_BYTES)
    except zlib.error:
        raise Unusable("damaged") from None
    if not unpacking.eof:
        raise Unusable("damaged")
    return Entry(made_at, payload)
