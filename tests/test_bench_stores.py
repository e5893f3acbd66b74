"""What the comparison of stores keeps of a run that is cut short."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from bench.stores import __main__ as stores
from bench.stores.engines import LINES, Line, Running
from bench.stores.measuring import CALLERS, TOP_K, Found
from bench.stores.rows import Rows


async def test_each_line_is_written_before_the_next_one_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def running(line: Line) -> AsyncIterator[Running]:
        if line is LINES[2]:
            raise KeyboardInterrupt
        yield Running("", line.name)

    async def measured(line: Line, server: Running, held: Rows) -> Found:
        times = {f"{k}/{callers}": 1.0 for k in TOP_K for callers in CALLERS}
        return Found(line, server.words, 1, 1.0, 0.0, times, times, 1.0, 1.0, 1.0, None, None, 1.0, 0.0)

    monkeypatch.setattr(stores, "running", running)
    monkeypatch.setattr(stores, "measured", measured)
    nothing = np.zeros((0, 3), np.float32)
    with pytest.raises(KeyboardInterrupt):
        await stores.measure(LINES, Rows([], nothing, [], nothing, 0), tmp_path / "stores.json")
    held = json.loads((tmp_path / "stores.json").read_text())
    assert [one["line"]["name"] for one in held["results"]] == [line.name for line in LINES[:2]]
    assert [path.name for path in tmp_path.iterdir()] == ["stores.json"]  # noqa: ASYNC240
