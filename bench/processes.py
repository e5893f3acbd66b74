"""What a process and its children cost, read from /proc (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def tree(pid: int) -> Iterator[int]:
    """`pid` and all below it, those that have ended meanwhile left out."""
    yield pid
    for task in (PROC / str(pid) / "task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def cpu_s(pid: int) -> float:
    """Processor seconds so far of `pid` and its children that are alive."""
    return sum(_cpu_s(one) for one in tree(pid))


def resident_mib(pid: int) -> float:
    """Resident memory of `pid` and its children; pages that they share count for each its part (PSS)."""
    return sum(_pss_kib(one) for one in tree(pid)) / 1024


def _cpu_s(pid: int) -> float:
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pss_kib(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
