"""Cells of a spreadsheet to captions and rows: a sheet may hold several tables, notes between them, and empty margins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ragline.parsing.outline import Outline, names_columns

Row = Sequence[str]


def write(rows: Iterable[Row], out: Outline) -> None:
    """Tables are parted by empty rows. Rows with one cell before a table's header are captions: running text."""
    for table in _islands(rows):
        header: Row | None = None
        for row in table:
            filled = [cell for cell in row if cell.strip()]
            if header is not None:
                out.row(row, header)
            elif len(filled) == 1:
                out.paragraph(filled[0])
            else:
                header = row if _names(row) else ()
                out.row(row, first=True)


def _names(row: Row) -> bool:
    """As `names_columns`, past the empty columns on both sides."""
    first = next((i for i, cell in enumerate(row) if cell.strip()), 0)
    last = max((i for i, cell in enumerate(row) if cell.strip()), default=0)
    return names_columns(row[first : last + 1])


def _islands(rows: Iterable[Row]) -> Iterator[list[Row]]:
    island: list[Row] = []
    for row in rows:
        if any(cell.strip() for cell in row):
            island.append(row)
        elif island:
            yield island
            island = []
    if island:
        yield island
