"""Records to put into a store under test, and what should come out."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ragline.types import Chunk, FieldType, Hit, Metadata, Record

DIM = 64
"""Components of the made-up vectors."""
FIELDS = {
    "kind": FieldType.KEYWORD,
    "year": FieldType.INTEGER,
    "rating": FieldType.NUMBER,
    "draft": FieldType.BOOLEAN,
    "published": FieldType.DATE,
    "Ursprungsland, größtes": FieldType.KEYWORD,
}
"""One field of every type, and one with a name that no column can have."""


def record(
    document: str,
    text: str,
    *,
    content: int = 1,
    ordinal: int = 0,
    title: str = "A title",
    groups: Iterable[str] = (),
    fields: Metadata | None = None,
) -> Record:
    """A record whose chunk id follows from (document, content, ordinal), as in production."""
    chunk = Chunk(
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{document}\n{content}\n{ordinal}")),
        document=document,
        content=content,
        ordinal=ordinal,
        text=text,
        start=7,
        end=7 + len(text),
        page=3,
        headings=("One", "Two"),
    )
    return Record(
        chunk=chunk,
        uri=f"file:///{document}",
        title=title,
        groups=frozenset(groups),
        fields=fields or {},
        search_text=f"{title}\n{text}",
    )


def embedding(text: str) -> NDArray[np.float32]:
    """A vector of unit length that points where the words of `text` point together; the same on every machine."""
    total = np.zeros(DIM)
    for word in text.split() or [""]:
        total += _direction(word)
    unit: NDArray[np.float32] = (total / np.linalg.norm(total)).astype(np.float32)
    return unit


@lru_cache(maxsize=10_000)
def _direction(word: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(DIM)


def embeddings(records: Sequence[Record]) -> NDArray[np.float32]:
    return np.stack([embedding(one.chunk.text) for one in records])


def texts(hits: Iterable[Hit]) -> list[str]:
    return [hit.chunk.text for hit in hits]


def chunk_ids(hits: Iterable[Hit]) -> list[str]:
    return [hit.chunk.id for hit in hits]


def crowd(size: int, *, groups: int) -> list[Record]:
    """`size` records, each readable by two of `groups` groups, so that one group sees about 2 / `groups` of them."""
    return [
        record(
            f"document-{number // 10}",
            f"common word{number % 50} word{number}",
            ordinal=number % 10,
            groups={f"group-{number % groups}", f"group-{(number * 7 + 1) % groups}"},
            fields={"year": 1900 + number % 100},
        )
        for number in range(size)
    ]


def varied() -> list[Record]:
    """Records with every type of field, absent, single and several values, with and without groups."""
    kinds: list[Metadata] = [{}, {"kind": "report"}, {"kind": ("memo", "report")}, {"kind": ""}]
    rest: list[Metadata] = [
        {},
        {"year": 2020, "rating": 0.5, "draft": True, "published": 1_577_836_800_000},
        {"year": (-3, 2023), "rating": (0.0, 1e300), "draft": False, "published": -1},
        {"year": -(2**63), "rating": -2.25, "draft": (True, False), "published": 1_685_620_800_123},
        {"year": 2**53 + 1, "rating": 2.0, "Ursprungsland, größtes": "Österreich"},
    ]
    readers: list[list[str]] = [[], ["staff"], ["staff", "board"], ["everyone"]]
    return [
        record(
            f"document-{number}",
            f"common word{number}",
            groups=readers[number % 4],
            fields={**kinds[row], **rest[column]},
        )
        for number, (row, column) in enumerate(
            (row, column) for column in range(5) for row in range(4) for _ in range(3)
        )
    ]
