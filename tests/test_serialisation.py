"""What is kept as bytes comes back equal."""

from __future__ import annotations

import pytest

from ragline.serialisation import dump_answer, dump_retrieved, load_answer, load_retrieved
from ragline.types import Answer, Chunk, Hit, Passage, Retrieved, Usage

CHUNK = Chunk("c", "d", 7, 0, "Text with “quotes”,\nand 漢字.", 3, 29, page=2, headings=("A", "B"))
FOUND = Retrieved(
    (Passage(1, Hit(CHUNK, "a.txt", "A", 0.1 + 0.2, "rrf", {"keyword": 1, "dense": 3})),),
    ("rerank",), "v20230601", 12, {"total": 1.25},
)  # fmt: skip


def test_passages_and_answers_come_back_equal() -> None:
    answer = Answer("It is so [1].", (1,), FOUND, "extractive", True, ("rerank",), Usage(3, 4), {"total": 2.0})
    assert load_retrieved(dump_retrieved(FOUND)) == FOUND
    assert load_answer(dump_answer(answer)) == answer


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"passages": 1}'])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="validation error"):
        load_retrieved(data)
    with pytest.raises(ValueError, match="validation error"):
        load_answer(data)
