"""A chunk on the log: bytes and processor time of JSON beside a packed layout and MessagePack, for docs/adr/0015.

    python -m bench.chunk_messages          MessagePack is left out where `msgpack` is not installed

Each way writes and reads the same messages in turn; processor time, medians of rounds. gzip is what every Kafka client
brings; the sizes under it are of batches of 64 messages, as a producer compresses them.
"""

from __future__ import annotations

import gzip
import importlib
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import TypeAlias

import numpy as np

from ragline.chunking import chunk_id
from ragline.chunklogs.messages import decoded, encoded
from ragline.types import ChunkMessage, Topic

MESSAGES, ROUNDS, BATCH = 1024, 7, 64
DIM = 384
CHARS = 900
"""Of 200 tokens of English."""

WORDS = "the of and to in is that for it as was with be by on not he his but at are this have from or had an they which".split()

Write: TypeAlias = Callable[[ChunkMessage], bytes]
Read: TypeAlias = Callable[[bytes], ChunkMessage]

_HEAD = struct.Struct("<BqIIHHHHII")


def messages(*, embedded: bool) -> list[ChunkMessage]:
    chance = np.random.default_rng(5)
    made = []
    for n in range(MESSAGES):
        document, ordinal = f"{n // 8:024x}", n % 8
        words = " ".join(chance.choice(WORDS) + str(chance.integers(1000)) for _ in range(CHARS // 6))
        vector = chance.standard_normal(DIM).astype("<f4")
        message = ChunkMessage(
            "default", document, chunk_id("default", document, 7, ordinal), 7, ordinal, 8, words[:CHARS]
        )
        if embedded:
            tail = (vector / np.linalg.norm(vector)).astype("<f4").tobytes()
            message = replace(message, space="all-MiniLM-L6-v2-53aa5117-int8r1-384", vector=tail)
        made.append(message)
    return made


def packed(message: ChunkMessage) -> bytes:
    parts = [one.encode() for one in (message.namespace, message.doc_id, message.chunk_id, message.space, message.text)]
    sizes = [len(part) for part in parts]
    return _HEAD.pack(1, message.content, message.ordinal, message.count, *sizes, len(message.vector)) + b"".join(
        [*parts, message.vector]
    )


def unpacked(value: bytes) -> ChunkMessage:
    _, content, ordinal, count, *sizes = _HEAD.unpack_from(value)
    parts, at = [], _HEAD.size
    for size in sizes:
        parts.append(value[at : at + size])
        at += size
    namespace, doc_id, id, space, text = (part.decode() for part in parts[:5])
    assert id == chunk_id(namespace, doc_id, content, ordinal)
    assert not parts[5] or np.isfinite(np.frombuffer(parts[5], "<f4")).all()
    return ChunkMessage(namespace, doc_id, id, content, ordinal, count, text, space, parts[5])


def ways(topic: Topic) -> Iterator[tuple[str, Write, Read]]:
    yield "JSON", encoded, lambda value: decoded(value, topic)
    yield "packed", packed, unpacked
    try:
        msgpack = importlib.import_module("msgpack")
    except ImportError:
        return
    yield (
        "MessagePack",
        lambda message: bytes(msgpack.packb(astuple(message))),
        lambda value: ChunkMessage(*msgpack.unpackb(value)),
    )


def measure(write: Write, read: Read, given: list[ChunkMessage]) -> tuple[float, float, float, float]:
    """Bytes, bytes under gzip, microseconds to write and to read, a message."""
    writing, reading = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        values = [write(message) for message in given]
        middle = time.process_time()
        assert [read(value) for value in values] == given
        writing.append(middle - start)
        reading.append(time.process_time() - middle)
    small = sum(len(gzip.compress(b"".join(values[at : at + BATCH]), 6)) for at in range(0, MESSAGES, BATCH))
    spent = [1e6 * statistics.median(rounds) / MESSAGES for rounds in (writing, reading)]
    return sum(map(len, values)) / MESSAGES, small / MESSAGES, spent[0], spent[1]


def main() -> None:
    print(f"{'':24}{'bytes':>8}{'gzip':>8}{'write':>10}{'read':>10}   (microseconds of the processor a message)")
    topics: tuple[Topic, ...] = ("doc_chunks", "doc_vectors")
    for topic in topics:
        given = messages(embedded=topic == "doc_vectors")
        for name, write, read in ways(topic):
            size, small, writing, reading = measure(write, read, given)
            print(f"{topic + ' ' + name:24}{size:8.0f}{small:8.0f}{writing:10.1f}{reading:10.1f}")


if __name__ == "__main__":
    main()
