"""One child of the pool: read a document, parse it inside limits, answer, again. Started by `pool.py` only.

    python -m ragline.parsing.child MODULE FOLDER        MODULE holds FORMATS, the table of formats;
                                                         FOLDER is made when a program is to write, and removed by the pool

Frames come on stdin and leave on what stdout was; both descriptors then point to /dev/null, so that a library that
prints cannot break a frame.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ragline.errors import DocumentRejected, Reason
from ragline.parsing import frames
from ragline.parsing.detect import detect
from ragline.parsing.formats import Format
from ragline.parsing.isolation import be_modest, close_network, die_with_parent, limit_memory, peak_bytes
from ragline.parsing.outline import Outline, Postponed
from ragline.types import Parsed

NICENESS = 10
"""Parsing is bulk work: it yields to queries on the same cores."""

MAX_DOCUMENTS = 1000
"""After so many a child is replaced, for what libraries leak."""

MAX_GROWTH_BYTES = 256 << 20
"""A child whose resident memory has peaked so far above its start is replaced: allocators seldom give back."""


def main() -> None:
    requests, replies = _take_pipes()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    be_modest(NICENESS)
    close_network()
    formats: Sequence[Format] = importlib.import_module(sys.argv[1]).FORMATS
    start = peak_bytes()
    replies.write(frames.pack({"ready": True}))
    replies.flush()
    for served in range(1, MAX_DOCUMENTS + 1):
        lengths = requests.read(frames.LENGTHS.size)
        if len(lengths) < frames.LENGTHS.size:
            return
        head_bytes, body_bytes = frames.LENGTHS.unpack(lengths)
        request = frames.unpack_request(requests.read(head_bytes))
        reply = _answer(request, requests.read(body_bytes), formats, start=start, served=served)
        replies.write(reply)
        replies.flush()
        if _spent(start, served):
            return


def _spent(start: int, served: int) -> bool:
    return served >= MAX_DOCUMENTS or peak_bytes() - start > MAX_GROWTH_BYTES


def _answer(request: frames.Request, data: bytes, formats: Sequence[Format], *, start: int, served: int) -> bytes:
    try:
        limit_memory(request.limits.memory_bytes)
        parsed = _parse(request, data, formats)
        return frames.pack_parsed(parsed, last=_spent(start, served))
    except Postponed:
        return frames.pack_slow_lane()
    except DocumentRejected as error:
        reason, message, next_step = error.reason, error.message, error.next_step
    except MemoryError:
        reason = Reason.MEMORY
        message = f"Parsing the document takes more than {request.limits.memory_bytes >> 20} MiB of memory."
        next_step = "Split it, or raise RAGLINE_INGEST__PARSE_MEMORY_BYTES."
    except Exception as error:  # noqa: BLE001 - the document's failure, told to its owner; never a word of its text
        reason = Reason.CRASHED
        message = f"The parser failed on the document ({type(error).__name__})."
        next_step = (
            "Save it again with the program that made it, or convert it; please report it if it opens elsewhere."
        )
    finally:
        limit_memory(None)
    # After MemoryError the heap may be anywhere: a fresh child is cheaper than a doubt.
    last = reason in (Reason.MEMORY, Reason.CRASHED) or _spent(start, served)
    return frames.pack_rejection(frames.Rejection(str(reason), message, next_step, last))


def _parse(request: frames.Request, data: bytes, formats: Sequence[Format]) -> Parsed:
    found = detect(data, name=request.name, media_type=request.media_type, formats=formats)
    out = Outline(request.limits, name=request.name, slow=request.slow, scratch=Path(sys.argv[2]))
    found.load()(data, out)
    return out.parsed()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return requests, replies


if __name__ == "__main__":
    main()
