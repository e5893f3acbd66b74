"""A `ragline` command as a process that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.server import RAGLINE

STOPPED_WITHIN_S = 120.0
"""Far over what a stop is bounded to: a busy machine is no fault here."""

READY_WITHIN_S = 300.0


class Program:
    """`command`: behind `ragline`; it says in one line of JSON that it is ready. Its log is appended to `log`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, variables: Mapping[str, str]) -> None:
        """Begin; `ready` waits for it. `variables` are its settings, and no others are."""
        given = {name: value for name, value in os.environ.items() if not name.startswith("RAGLINE_")}
        with self._log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *RAGLINE, *self._command, stdout=asyncio.subprocess.PIPE, stderr=errors, env=given | dict(variables)
            )

    async def ready(self) -> dict[str, Any]:
        """What it says of itself. Raises RuntimeError: it does not start."""
        assert self._process
        assert self._process.stdout
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), READY_WITHIN_S)
        except TimeoutError:
            raise RuntimeError(f"`{self}` does not come up:\n{self._end()}") from None
        if not line:
            raise RuntimeError(f"`{self}` ended at once:\n{self._end()}")
        told: dict[str, Any] = json.loads(line)
        return told

    async def died(self) -> None:
        """Return once the process is gone. Raises RuntimeError: it ended in another way than by SIGKILL."""
        assert self._process
        code = await self._process.wait()
        if code != -signal.SIGKILL:
            raise RuntimeError(f"`{self}` ended with {code}:\n{self._end()}")

    async def kill(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.kill()
        await self.died()

    async def stop(self) -> None:
        """In order, as Ctrl-C does. Raises RuntimeError: it does not stop; it is killed then."""
        if self._process and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOPPED_WITHIN_S)
            except TimeoutError:
                self._process.kill()
                raise RuntimeError(f"`{self}` did not stop:\n{self._end()}") from None

    def _end(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def __str__(self) -> str:
        return f"ragline {' '.join(self._command[:2])}"
