"""The documentation says what the code says, and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragline.parsing.formats import FORMATS
from scripts import prove_docs
from scripts.settings_docs import PAGE, page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
MADE = {".venv", ".tools", ".git", "node_modules", "dist"}


def _pages() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*.md")):
        if not MADE.intersection(part for part in path.relative_to(ROOT).parts):
            yield path


def _anchors(page: Path) -> set[str]:
    """Of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_settings_page_is_made_from_the_settings() -> None:
    assert PAGE.read_text("utf-8") == page(), "run `python scripts/settings_docs.py`"


def test_the_table_of_experiments_is_made_from_their_files() -> None:
    now = prove_docs.PAGE.read_text("utf-8")
    assert now == prove_docs.page(now), "run `python scripts/prove_docs.py`"


@pytest.mark.parametrize("path", list(_pages()), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(FENCED.sub("", path.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if not found.exists() or (anchor and found.suffix == ".md" and anchor not in _anchors(found)):
            broken.append(target)
    assert not broken


def test_the_page_on_formats_lists_every_ending_that_is_read() -> None:
    words = set(re.findall(r"\w+", (ROOT / "docs" / "formats.md").read_text("utf-8")))
    assert {ending for one in FORMATS for ending in one.endings} - words == set()


def test_every_page_below_docs_is_on_its_map() -> None:
    map_page = ROOT / "docs" / "index.md"
    linked = {(map_page.parent / target).resolve() for target in LINK.findall(map_page.read_text("utf-8"))}
    assert [page for page in sorted((ROOT / "docs").rglob("*.md")) if page not in linked | {map_page}] == []
