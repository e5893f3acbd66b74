"""What `doctor` says of the programs that read scans and old Office files."""

from __future__ import annotations

import os
import shutil

import pytest

from ragline.cli.doctor import _ocr, _office
from ragline.settings import IngestSettings, Settings

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None and not os.environ.get("CI"), reason="Tesseract is not installed"
)


def test_a_program_that_is_missing_is_no_fault_and_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragline.parsing.programs.installed", lambda *_: None)
    for finding, package in ((_ocr(Settings()), "tesseract-ocr"), (_office(Settings()), "libreoffice-writer-nogui")):
        assert finding.state == "ok"
        assert "not installed" in finding.detail
        assert f"apt-get install {package}" in finding.next_step


def test_what_is_switched_off_is_said() -> None:
    settings = Settings(ingest=IngestSettings(ocr=False, office=False))
    assert "ingest.ocr" in _ocr(settings).detail
    assert "ingest.office" in _office(settings).detail


@needs_tesseract
def test_a_language_without_data_is_a_warning() -> None:
    finding = _ocr(Settings(ingest=IngestSettings(ocr_languages="eng+xyz")))
    assert (finding.state, "tesseract-ocr-xyz" in finding.next_step) == ("warning", True)
    assert _ocr(Settings()).state == "ok"
