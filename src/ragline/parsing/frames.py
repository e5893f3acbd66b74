"""The words between the pool and its children: a JSON head and a body, each with its length before it.

JSON, not pickle: a child reads hostile documents with native code, so nothing it says may run here.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass

from ragline.parsing.limits import Limits, Tools
from ragline.types import Block, Member, Parsed

LENGTHS = struct.Struct(">IQ")
"""Bytes of the head, bytes of the body."""

MAX_HEAD_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """One document for a child; its bytes are the body. `slow`: programs may be called that take their time."""

    name: str
    media_type: str | None
    limits: Limits
    slow: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """A document refused. `last`: the child exits after this reply."""

    reason: str
    message: str
    next_step: str
    last: bool


class SlowLane:
    """The reply that the document is to be sent again, as a slow one."""


def pack(head: object, *body: bytes) -> bytes:
    encoded = json.dumps(head, separators=(",", ":")).encode()
    return b"".join((LENGTHS.pack(len(encoded), sum(map(len, body))), encoded, *body))


def pack_request(request: Request, size: int) -> bytes:
    """All but the body, which follows as it is."""
    encoded = json.dumps(asdict(request)).encode()
    return LENGTHS.pack(len(encoded), size) + encoded


def unpack_request(head: bytes) -> Request:
    said = json.loads(head)
    limits = said.pop("limits")
    return Request(**said, limits=Limits(**{**limits, "tools": Tools(**limits["tools"])}))


def pack_parsed(parsed: Parsed, *, last: bool) -> bytes:
    """Heading paths repeat from block to block, so they are sent once and named by number. Members follow the text."""
    paths: dict[tuple[str, ...], int] = {}
    blocks = [[b.start, b.end, b.page, paths.setdefault(b.headings, len(paths)), b.table] for b in parsed.blocks]
    text = parsed.text.encode("utf-8", "replace")
    members = [[member.name, len(member.data)] for member in parsed.members]
    head = {"title": parsed.title, "paths": list(paths), "blocks": blocks, "last": last, "text": len(text),
            "members": members, "left_out": parsed.left_out}  # fmt: skip
    return pack(head, text, *(member.data for member in parsed.members))


def pack_slow_lane() -> bytes:
    return pack({"slow": True})


def pack_rejection(rejection: Rejection) -> bytes:
    return pack({"rejected": asdict(rejection)})


def unpack_reply(head: bytes, body: bytes) -> tuple[Parsed | Rejection | SlowLane, bool]:
    """The reply, and whether the child exits after it. Raises ValueError, KeyError, TypeError on what is no reply."""
    said = json.loads(head)
    if "slow" in said:
        return SlowLane(), False
    if "rejected" in said:
        rejection = Rejection(**said["rejected"])
        return rejection, rejection.last
    paths = [tuple(path) for path in said["paths"]]
    blocks = tuple(Block(start, end, page, paths[path], table) for start, end, page, path, table in said["blocks"])
    view, at, members = memoryview(body), int(said["text"]), list[Member]()
    text = str(view[:at], "utf-8")
    for name, size in said["members"]:
        members.append(Member(str(name), bytes(view[at : at + size])))
        at += size
    if at != len(body):
        raise ValueError("a body of another length than its head says")
    left_out = tuple(map(str, said["left_out"]))
    return Parsed(text, blocks, said["title"], tuple(members), left_out), bool(said["last"])
