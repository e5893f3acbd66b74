"""The words between the pool and its children: a JSON head and a body, each with its length before it.

JSON, not pickle: a child reads hostile documents with native code, so nothing it says may run here.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass

from ragline.types import Block, Parsed

LENGTHS = struct.Struct(">IQ")
"""Bytes of the head, bytes of the body."""

MAX_HEAD_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """One document for a child; its bytes are the body. Units: `memory_bytes` is what the parse may add."""

    name: str
    media_type: str | None
    memory_bytes: int
    max_text_chars: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """A document refused. `last`: the child exits after this reply."""

    reason: str
    message: str
    next_step: str
    last: bool


def pack(head: object, body: bytes = b"") -> bytes:
    encoded = json.dumps(head, separators=(",", ":")).encode()
    return LENGTHS.pack(len(encoded), len(body)) + encoded + body


def pack_request(request: Request, size: int) -> bytes:
    """All but the body, which follows as it is."""
    encoded = json.dumps(asdict(request)).encode()
    return LENGTHS.pack(len(encoded), size) + encoded


def unpack_request(head: bytes) -> Request:
    return Request(**json.loads(head))


def pack_parsed(parsed: Parsed, *, last: bool) -> bytes:
    """Heading paths repeat from block to block, so they are sent once and named by number."""
    paths: dict[tuple[str, ...], int] = {}
    blocks = [[b.start, b.end, b.page, paths.setdefault(b.headings, len(paths)), b.table] for b in parsed.blocks]
    head = {"title": parsed.title, "paths": list(paths), "blocks": blocks, "last": last}
    return pack(head, parsed.text.encode("utf-8", "replace"))


def pack_rejection(rejection: Rejection) -> bytes:
    return pack({"rejected": asdict(rejection)})


def unpack_reply(head: bytes, body: bytes) -> tuple[Parsed | Rejection, bool]:
    """The reply, and whether the child exits after it. Raises ValueError, KeyError, TypeError on what is no reply."""
    said = json.loads(head)
    if "rejected" in said:
        rejection = Rejection(**said["rejected"])
        return rejection, rejection.last
    paths = [tuple(path) for path in said["paths"]]
    blocks = tuple(Block(start, end, page, paths[path], table) for start, end, page, path, table in said["blocks"])
    return Parsed(text=body.decode("utf-8"), blocks=blocks, title=said["title"]), bool(said["last"])
