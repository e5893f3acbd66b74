"""Measure every store that runs here, a server at a time, and print the table.

    python -m bench.stores --data FOLDER [--rows 10000] [--only NAME …] [--work FOLDER] [--json FILE]
    python -m bench.stores --quality --data FOLDER [--work FOLDER]

FOLDER holds collections as BEIR has them. Vectors are those of their sentences, by the default embedder, up to --real; beyond
these, perturbed copies. Searches are those of one process with the adapters, as `ragline` makes them. --quality: nDCG@10 on
SciFact by the embedded engines, and by Milvus with Elasticsearch, asked at once and after Milvus has built its index.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.figures import Figure, Ground, machine, show
from bench.stores import quality
from bench.stores.engines import LINES, Line, running
from bench.stores.measuring import CALLERS, TOP_K, Found, measured
from bench.stores.rows import Rows, rows

MOST_REAL = 10_000


async def measure(lines: Sequence[Line], held: Rows, to: Path | None) -> list[Found]:
    """`to`: written anew after each line, so that a run which is cut short leaves what it has."""
    found: list[Found] = []
    for line in lines:
        async with running(line) as server:
            found.append(await measured(line, server, held))
        print(row(found[-1]), flush=True)
        if to:
            write(to, found, held)
    return found


def write(to: Path, found: Sequence[Found], held: Rows) -> None:
    document = {"machine": machine(), "command": sys.argv[1:], "rows": len(held.records), "real": held.real,
                "results": [asdict(one) for one in found]}  # fmt: skip
    half = to.with_name(f"{to.name}.half")
    half.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    half.replace(to)


def head(held: Rows) -> str:
    real = (
        "" if held.real >= len(held.records) else f", {held.real:,} of them of their own, the others perturbed copies"
    )
    columns = [
        "", "rows/s", "index, s",
        *(f"k {k}, {callers} caller{'s' if callers > 1 else ''}" for callers in CALLERS for k in TOP_K),
        "0.1 % filter, k 10", "processor ms, k 50", "recall@10", "with the filter", "MiB", "load",
    ]  # fmt: skip
    told = machine()
    words = f"{len(held.records):,} chunks{real}; {told['cores']} cores; p50 / p95 in ms"
    return f"{words}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def row(one: Found) -> str:
    cells = [
        one.line.name, f"{one.rows_s:,.0f}", f"{one.settled_s:.0f}" if one.settled_s > 0.1 else "",
        *(f"{one.p50[at]:.1f} / {one.p95[at]:.1f}" for at in one.p50), f"{one.shelf_p50:.1f} / {one.shelf_p95:.1f}",
        f"{one.cpu_ms:.1f}",
        *(f"{share:.3f}" if share is not None else "" for share in (one.recall, one.shelf_recall)),
        f"{one.memory_mib:,.0f}", f"{one.load:.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> int:
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as temporary:
        work = given.work or Path(temporary)
        if given.quality:
            figures: list[Figure] = asyncio.run(quality.run(Ground(given.data, work)))
            show({"stores": figures}, {})
            return int(any(figure.met is False for figure in figures))
        held = rows(given.data, work, given.rows, given.real)
        print(head(held), flush=True)
        lines = [one for one in LINES if not given.only or any(part.lower() in one.name.lower() for part in given.only)]
        found = asyncio.run(measure(lines, held, given.json))
    for words in dict.fromkeys(one.words for one in found):
        print(f"- {words}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.stores", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of collections")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--real", type=int, default=MOST_REAL, help="most sentences that are embedded")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="lines whose name has it in it")
    parser.add_argument("--work", type=Path, help="folder to keep vectors in, for the next run")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--quality", action="store_true", help="nDCG@10 on SciFact instead")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
