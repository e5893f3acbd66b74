"""What the pool of parsers costs a small file, and what real files of each format come to.

The second part needs a folder `ingest` with a manifest: a path a line, and the phrase that must be found in the text, or
the reason that must be given.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.figures import Figure, Ground, median
from ragline.errors import DocumentRejected, Reason
from ragline.parsing import programs
from ragline.parsing.formats import FORMATS
from ragline.parsing.limits import Limits
from ragline.parsing.outline import Outline
from ragline.parsing.pool import ParserPool

SMALL = ("a text of some words, as small files are. " * 20).encode()
ROUNDS = 500

BEFORE_2007 = ("doc", "ppt")
"""Endings of what only LibreOffice reads."""


async def run(ground: Ground) -> list[Figure]:
    pool = ParserPool(processes=1, timeout_s=60.0, limits=Limits())
    try:
        await pool.warm()
        figures = await _small(pool)
        manifest = ground.data / "ingest" / "manifest.jsonl" if ground.data else None
        if manifest is not None and manifest.exists():
            figures += await _real(pool, manifest.parent, entries(manifest))
    finally:
        await pool.aclose()
    return figures


async def _small(pool: ParserPool) -> list[Figure]:
    parse = next(one for one in FORMATS if one.name == "plain text").load()
    trips, alone = list[float](), list[float]()
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await pool.parse(partial(_same, SMALL), name="a.txt", media_type=None)
        between = time.perf_counter()
        out = Outline(Limits())
        parse(SMALL, out)
        out.parsed()
        trips.append(between - start)
        alone.append(time.perf_counter() - between)
    cost_ms = 1000 * (median(trips) - median(alone))
    return [
        Figure(
            "pool: cost of a small file",
            cost_ms,
            "ms",
            at_most=5,
            note=f"median of {ROUNDS}; text of {len(SMALL)} bytes",
        ),
        Figure("the same text parsed without the pool", 1000 * median(alone), "ms"),
    ]


async def _same(data: bytes) -> bytes:
    return data


def entries(manifest: Path) -> list[dict[str, Any]]:
    """A file each: its `path`, its ending, and what to `expect` of it here: without LibreOffice, to be refused for it."""
    found = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    if not programs.installed("soffice", "libreoffice"):
        for entry in found:
            if entry["ext"] in BEFORE_2007 and entry["expect"]["kind"] == "text":
                entry["expect"] = {"kind": "reason", "why": Reason.UNSUPPORTED}
    return found


async def _real(pool: ParserPool, folder: Path, files: Sequence[dict[str, Any]]) -> list[Figure]:
    took: dict[str, list[float]] = defaultdict(list)
    met = total = 0
    for entry in files:
        data = await asyncio.to_thread((folder / entry["path"]).read_bytes)
        text, reason, start = "", None, time.perf_counter()
        try:
            text = (await pool.parse(partial(_same, data), name=entry["path"], media_type=None)).text
        except DocumentRejected as error:
            reason = error.reason
        took[entry["ext"]].append(time.perf_counter() - start)
        total += 1
        if met_by(entry["expect"], text, reason):
            met += 1
        else:
            print(f"missed: {entry['path']}: {entry['expect']}, {reason}")
    figures = [Figure("files as expected", 100 * met / total, "%", at_least=99, note=f"{met} of {total}")]
    for ending, times in sorted(took.items()):
        note = f"{len(times)} files, worst {1000 * max(times):.0f} ms"
        figures.append(Figure(f"{ending}: median", 1000 * median(times), "ms", note=note))
    peak = max(_peak_bytes(pid) for pid in pool.pids)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [*figures, Figure("largest child", peak / 2**20, "MiB"), Figure("this process", used, "MiB")]


def met_by(expect: Mapping[str, Any], text: str, reason: str | None) -> bool:
    """`text`: what was read; `reason`: why nothing was. `either` says that both will do."""
    if expect["kind"] == "text":
        return _squeezed(str(expect["phrase"])) in _squeezed(text)
    return bool(expect["kind"] == "either" or reason == expect["why"])


def _squeezed(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _peak_bytes(pid: int) -> int:
    """The most memory the process has had resident; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
    except OSError:
        return 0
    line = next((line for line in status.split(os.linesep) if line.startswith("VmHWM")), "VmHWM: 0 kB")
    return int(line.split()[1]) << 10
