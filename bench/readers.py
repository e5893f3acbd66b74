"""Readers of one format against each other: phrases found, processor time, time to import. The study behind ADR 0004.

    pip install python-pptx openpyxl odfpy orgparse extract-msg
    python -m bench.readers --data FOLDER

FOLDER holds `ingest` with its manifest. A reader whose package is missing is left out.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ragline.parsing.formats import FORMATS
from ragline.parsing.limits import Limits
from ragline.parsing.outline import Outline

Read = Callable[[bytes], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    folder = parser.parse_args().data / "ingest"
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
    for endings, name, module, read in READERS:
        start = time.process_time()
        try:
            importlib.import_module(module)
        except ImportError:
            print(f"{endings[0]:6} {name:14} not installed")
            continue
        imported = time.process_time() - start
        wanted = [one for one in entries if one["ext"] in endings and one["expect"]["kind"] == "text"]
        found, times = 0, []
        for entry in wanted:
            data = (folder / entry["path"]).read_bytes()
            start = time.process_time()
            try:
                text = read(data)
            except Exception as error:  # noqa: BLE001 - what a reader cannot read, it does not find
                text = ""
                print(f"       {name}: {entry['path']}: {type(error).__name__}")
            times.append(time.process_time() - start)
            found += _squeezed(entry["expect"]["phrase"]) in _squeezed(text)
        mean, worst = 1000 * sum(times) / len(times), 1000 * max(times)
        print(
            f"{endings[0]:6} {name:14} found {found} of {len(wanted)}, {mean:.1f} ms a file, worst {worst:.0f},"
            f" import {1000 * imported:.0f} ms"
        )


def _ours(ending: str) -> Read:
    found = next(one for one in FORMATS if ending in one.endings)

    def read(data: bytes) -> str:
        out = Outline(Limits(), name=f"a.{ending}")
        found.load()(data, out)
        return out.parsed().text

    return read


def _python_pptx(data: bytes) -> str:
    parts: list[str] = []

    def walk(shapes: Any) -> None:
        for shape in shapes:
            if shape.shape_type == 6:
                walk(shape.shapes)
            elif shape.has_text_frame:
                parts.append(shape.text_frame.text)
            elif shape.has_table:
                parts.extend(cell.text for row in shape.table.rows for cell in row.cells)

    for slide in importlib.import_module("pptx").Presentation(io.BytesIO(data)).slides:
        walk(slide.shapes)
        if slide.has_notes_slide:
            parts.append(slide.notes_slide.notes_text_frame.text)
    return "\n".join(parts)


def _openpyxl(data: bytes) -> str:
    book = importlib.import_module("openpyxl").load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    rows = (row for sheet in book.worksheets for row in sheet.iter_rows(values_only=True))
    return "\n".join(" ".join(str(cell) for cell in row if cell is not None) for row in rows)


def _odfpy(data: bytes) -> str:
    teletype, text = importlib.import_module("odf.teletype"), importlib.import_module("odf.text")
    body = importlib.import_module("odf.opendocument").load(io.BytesIO(data))
    parts = [*body.getElementsByType(text.H), *body.getElementsByType(text.P)]
    return "\n".join(teletype.extractText(part) for part in parts)


def _orgparse(data: bytes) -> str:
    root = importlib.import_module("orgparse").loads(data.decode())
    return "\n".join(f"{node.heading}\n{node.get_body()}" for node in root[0:])


def _extract_msg(data: bytes) -> str:
    with importlib.import_module("extract_msg").openMsg(data) as message:
        return str(message.body)


READERS: tuple[tuple[tuple[str, ...], str, str, Read], ...] = (
    (("pptx",), "ours", "ragline.parsing.pptx", _ours("pptx")),
    (("pptx",), "python-pptx", "pptx", _python_pptx),
    (("xlsx",), "calamine", "ragline.parsing.sheets", _ours("xlsx")),
    (("xlsx",), "openpyxl", "openpyxl", _openpyxl),
    (("odt", "odp"), "ours", "ragline.parsing.odf", _ours("odt")),
    (("odt", "odp"), "odfpy", "odf.opendocument", _odfpy),
    (("org",), "ours", "ragline.parsing.org", _ours("org")),
    (("org",), "orgparse", "orgparse", _orgparse),
    (("msg",), "python-oxmsg", "ragline.parsing.outlook", _ours("msg")),
    (("msg",), "extract-msg", "extract_msg", _extract_msg),
    (("rtf",), "striprtf", "ragline.parsing.rtf", _ours("rtf")),
    (("epub",), "ours", "ragline.parsing.epub", _ours("epub")),
    (("rst",), "docutils", "ragline.parsing.rst", _ours("rst")),
    (("tex",), "pylatexenc", "ragline.parsing.latex", _ours("tex")),
    (("asciidoc",), "ours", "ragline.parsing.asciidoc", _ours("asciidoc")),
    (("eml",), "email, Lexbor", "ragline.parsing.mail", _ours("eml")),
    (("xml",), "ours", "ragline.parsing.xml", _ours("xml")),
)


def _squeezed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


if __name__ == "__main__":
    main()
