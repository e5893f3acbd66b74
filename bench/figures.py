"""What a benchmark gives back: figures, some with a target, and how they are shown and written."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `at_most` and `at_least` are targets; a figure without one is reported only."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def target(self) -> str:
        parts = (("≤", self.at_most), ("≥", self.at_least))
        return ", ".join(f"{sign} {bound:g}" for sign, bound in parts if bound is not None)


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a benchmark finds its data and keeps what is slow to make again."""

    data: Path | None
    work: Path

    @property
    def indexed(self) -> Path:
        """The data folder in which collections are indexed, for all benchmarks that search: once is enough."""
        return self.work / "indexed"

    def collection(self, name: str) -> Path:
        """Raises Skipped: it is not among the data."""
        folder = self.data / name if self.data else None
        if folder is None or not (folder / "corpus.jsonl").exists():
            raise Skipped(f"needs the collection {name!r} in the folder that --data names")
        return folder


class Skipped(Exception):
    """A benchmark has not what it needs; the message says what."""


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(results: Mapping[str, Sequence[Figure]], skipped: Mapping[str, str]) -> None:
    table = Table(title="Ragline benchmarks", title_justify="left")
    for column in ("benchmark", "figure", "value", "target", ""):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, figures in results.items():
        for figure in figures:
            mark = {None: "", True: "met", False: "MISSED"}[figure.met]
            value = f"{figure.value:,.3f}".rstrip("0").rstrip(".") if figure.value < 100 else f"{figure.value:,.0f}"
            words = " · ".join(filter(None, (mark, figure.note)))
            table.add_row(name, figure.name, f"{value} {figure.unit}".strip(), figure.target, words)
    console = Console(width=None if os.isatty(1) else 150)
    console.print(table)
    for name, why in skipped.items():
        console.print(f"{name}: skipped: {why}", highlight=False)


def write(path: Path, results: Mapping[str, Sequence[Figure]], skipped: Mapping[str, str]) -> None:
    figures = {name: [asdict(one) | {"met": one.met} for one in found] for name, found in results.items()}
    document = {"machine": machine(), "results": figures, "skipped": dict(skipped)}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


def machine() -> dict[str, str | int | float | None]:
    """What the figures were taken on."""
    return {
        "system": platform.system(), "processor": _processor(), "cores": os.cpu_count(), "vnni": "vnni" in _flags(),
        "python": platform.python_version(), "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def _flags() -> str:
    try:
        return next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
