"""Workbooks (XLSX, XLSB, XLS, ODS), by calamine: each sheet under its name, each row with the names of its columns."""

from __future__ import annotations

import datetime
import io
import re
import zipfile
import zlib
from collections.abc import Iterator

import python_calamine as calamine

from ragline.errors import DocumentRejected, Reason
from ragline.parsing import grid
from ragline.parsing.outline import Outline
from ragline.parsing.package import MAX_PART_BYTES, encrypted

MAX_CELLS = 20_000_000
"""The rectangle of one sheet, up to its last row and column. calamine holds all of it, 24 bytes a cell, and one cell in
the far corner makes it 17 billion."""
_MAX_COLUMNS = 16_384
_ROW = re.compile(rb'<(?:\w+:)?row\b[^>]*?\br="(\d+)"')
_CELL = re.compile(rb'<(?:\w+:)?c\b[^>]*?\br="([A-Z]{1,3})\d')

_WHAT = "The workbook"


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: ENCRYPTED, DAMAGED, TOO_LARGE, EMPTY."""
    _check_package(data)
    try:
        with calamine.CalamineWorkbook.from_filelike(io.BytesIO(data)) as book:
            for sheet in book.sheets_metadata:
                if sheet.typ is calamine.SheetTypeEnum.WorkSheet:
                    _sheet(book, sheet.name, out)
    except calamine.PasswordError as error:
        raise encrypted(_WHAT) from error
    except (calamine.CalamineError, OSError, ValueError) as error:
        raise DocumentRejected(
            Reason.DAMAGED,
            f"{_WHAT} is damaged or cut short.",
            next_step="Open it in Excel or LibreOffice, save it again, and upload that copy.",
        ) from error


def _check_package(data: bytes) -> None:
    """What the file itself says of its size; a liar runs into the limit of memory, and ends its child."""
    if not data.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            parts = package.infolist()
            if any(part.flag_bits & 1 for part in parts):
                raise encrypted(_WHAT)
            texts = (part.file_size for part in parts if part.filename.endswith((".xml", ".bin", ".rels")))
            if sum(texts) > MAX_PART_BYTES:
                raise _too_large(f"unpacks to more than {MAX_PART_BYTES >> 20} MiB")
            for part in parts:
                if part.filename.startswith("xl/worksheets/") and _cells(package.read(part)) > MAX_CELLS:
                    raise _too_large(f"has a sheet of more than {MAX_CELLS:,} cells")
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError):
        return  # calamine says what is wrong with it


def _cells(sheet: bytes) -> int:
    """Rows up to the last one times columns up to the last one; an estimate from above where it is small."""
    last = sheet.rfind(b"row ")
    row = _ROW.search(sheet, max(0, sheet.rfind(b"<", 0, last)) if last >= 0 else 0)
    rows = int(row[1]) if row else 0
    if rows * _MAX_COLUMNS <= MAX_CELLS:
        return rows * _MAX_COLUMNS
    return rows * max(map(_column, set(_CELL.findall(sheet))), default=0)


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - ord("A") + 1
    return number


def _too_large(why: str) -> DocumentRejected:
    return DocumentRejected(Reason.TOO_LARGE, f"{_WHAT} {why}.", next_step="Split it, or delete what is empty in it.")


def _sheet(book: calamine.CalamineWorkbook, name: str, out: Outline) -> None:
    sheet = book.get_sheet_by_name(name)
    if sheet.height and sheet.width:
        out.heading(1, name)
        grid.write(_rows(sheet), out)


def _rows(sheet: calamine.CalamineSheet) -> Iterator[list[str]]:
    for row in sheet.iter_rows():
        yield [_words(value) for value in row]


def _words(value: object) -> str:
    """A cell as its reader sees it, but for the number format: 3.0 is 3, a date without a time is a date."""
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(round(value, 12))
        case datetime.datetime() if value.time() == datetime.time():
            return value.date().isoformat()
        case datetime.datetime():
            return value.isoformat(" ")
        case _:
            return str(value)
