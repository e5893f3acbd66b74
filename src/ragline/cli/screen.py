"""Where results go: JSON for a script, plain lines for a pipe, a table on a terminal.

Texts of documents reach a terminal here, so control characters, which could drive it, are taken out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

_CONTROLS = {code: " " for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def clean(text: str) -> str:
    """`text` without control characters but line ends and tabs."""
    return text.translate(_CONTROLS)


class Screen:
    """Results to stdout, words about the work to stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.terminal = sys.stdout.isatty() and not as_json
        self.live = sys.stderr.isatty() and not as_json
        """Whether a person watches: progress is drawn."""

    def data(self, value: object) -> None:
        """One JSON value."""
        print(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None), flush=True)

    def line(self, text: str = "") -> None:
        print(clean(text), flush=True)

    def piece(self, text: str) -> None:
        """Text without a line end, shown at once."""
        print(clean(text), end="", flush=True)

    def note(self, text: str) -> None:
        if not self.as_json:
            print(clean(text), file=sys.stderr, flush=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Tab-separated in a pipe. Shapes: each row as long as `columns`."""
        cells = [["" if cell is None else clean(str(cell)) for cell in row] for row in rows]
        if not self.terminal:
            for row in (columns, *cells):
                print("\t".join(" ".join(cell.split("\t")).replace("\n", " ") for cell in row))
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in cells:
            table.add_row(*(Text(cell, overflow="fold") for cell in row))
        Console().print(table)

    def facts(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Names and values, a line each; a value of None is left out."""
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            if value is not None:
                self.line(f"{name:<{width}}  {value}".rstrip())
