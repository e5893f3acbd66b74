"""The demo's documents: each with its source, the made ones as their texts say. The demo itself checks its answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.make_documents import main
from ragline.parsing.detect import detect
from ragline.parsing.formats import FORMATS
from ragline.parsing.limits import Limits
from ragline.parsing.outline import Outline
from ragline.types import Parsed

DEMO = Path(__file__).resolve().parent.parent / "demo"
DOCUMENTS = DEMO / "documents"
MOST_BYTES = 400_000


def _parse(path: Path) -> Parsed:
    data, out = path.read_bytes(), Outline(Limits())
    detect(data, name=path.name, media_type=None, formats=FORMATS).load()(data, out)
    return out.parsed()


def test_every_document_has_its_source() -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", (DEMO / "SOURCES.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCUMENTS.iterdir())


def test_the_documents_are_few_and_of_every_format() -> None:
    assert sum(path.stat().st_size for path in DOCUMENTS.iterdir()) < MOST_BYTES
    assert {path.suffix for path in DOCUMENTS.iterdir()} == {".pdf", ".docx", ".html", ".md", ".txt", ".csv", ".jsonl"}


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], Path]:
    main(tmp_path)
    return lambda name: tmp_path / name


@pytest.mark.parametrize("name", ["us-amendments.pdf", "us-constitution.docx"])
def test_made_documents_are_made_from_their_texts(name: str, made: Callable[[str], Path]) -> None:
    # Not byte by byte: compression and templates differ between versions of the libraries.
    assert _parse(made(name)) == _parse(DOCUMENTS / name)


@pytest.mark.parametrize("stem", ["us-amendments", "us-constitution"])
def test_nothing_of_a_text_is_lost_in_its_document(stem: str) -> None:
    text = re.sub(r"^#+ ", "", (DEMO / "texts" / f"{stem}.md").read_text("utf-8"), flags=re.MULTILINE)
    (document,) = DOCUMENTS.glob(f"{stem}.*")
    assert _parse(document).text.split() == text.split()


def test_the_pdf_keeps_its_pages_and_headings() -> None:
    parsed = _parse(DOCUMENTS / "us-amendments.pdf")
    assert parsed.title == "Amendments to the Constitution of the United States"
    found = next(block for block in parsed.blocks if "eighteen years of age" in parsed.text[block.start : block.end])
    assert (found.page, found.headings) == (7, ("Amendment XXVI",))
