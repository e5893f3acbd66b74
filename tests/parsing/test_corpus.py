"""Hundreds of real files of many makers, with what two independent readers agree each holds. Skipped where absent."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.pool import ParserPool
from tests.reading import at_hand

DATA = Path(os.environ.get("RAGLINE_TEST_DATA") or Path(__file__).parents[2].parent / "shared/data") / "ingest"
SHARE = 0.99
"""Of the files that must come out as expected; the readers that made the expectations are wrong now and then too."""

PROGRAMS = {"doc": "soffice", "ppt": "soffice", "jpg": "tesseract"}
"""Endings that only a program reads, which may not be here."""

SYSTEM = {Reason.CRASHED, Reason.TIMEOUT, Reason.MEMORY}

pytestmark = pytest.mark.skipif(not (DATA / "manifest.jsonl").exists(), reason="the corpus is not here")


def _squeezed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


async def test_real_files_come_out_as_expected(pool: ParserPool) -> None:
    await pool.warm()
    first = pool.pids
    read, missed, fell = 0, [], []
    for line in (DATA / "manifest.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        path, expect = entry["path"], entry["expect"]
        text, reason = "", None
        try:
            text = (await pool.parse(at_hand((DATA / path).read_bytes()), name=path, media_type=None)).text
        except DocumentRejected as error:
            reason = error.reason
        if reason in SYSTEM:
            fell.append((path, reason))
        if PROGRAMS.get(entry["ext"]) is None or shutil.which(PROGRAMS[entry["ext"]]):
            read += 1
            if (expect["kind"] == "text" and _squeezed(expect["phrase"]) not in _squeezed(text)) or (
                expect["kind"] == "reason" and reason != expect["why"]
            ):
                missed.append((path, expect, reason))
    assert not fell
    assert pool.pids >= first, "no document cost a child"
    assert len(pool.pids) <= 2, "one for most, one for what takes its time"
    assert read > 400
    assert len(missed) <= (1 - SHARE) * read, missed


@pytest.mark.skipif(not (DATA / "generated").is_dir(), reason="the corpus is not here")
async def test_hostile_files_leave_the_pool_alive(pool: ParserPool) -> None:
    reasons: dict[str, Reason] = {}
    for path in sorted((DATA / "generated").iterdir()):
        try:
            await pool.parse(at_hand(path.read_bytes()), name=path.name, media_type=None)
        except DocumentRejected as error:
            reasons[path.name] = error.reason
    assert not SYSTEM & set(reasons.values()), reasons
    assert (await pool.parse(at_hand(b"alive"), name="a.txt", media_type=None)).text == "alive"
