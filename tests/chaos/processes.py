"""`ragline prove` as a process that is interrupted or killed, and what it has started."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

PROGRAM = [sys.executable, "-c", "from ragline.cli.main import run; run()"]
WITHIN_S = 240.0


class Proof:
    """What it says, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._lines: Queue[str] = Queue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def until(self, words: str) -> str:
        """The line with `words`."""
        while words not in (line := self._lines.get(timeout=WITHIN_S)):
            assert line, self.said
        return line

    def children(self) -> set[int]:
        told = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return {int(one) for one in told.stdout.split()}

    def ended(self) -> int:
        code = self.process.wait(WITHIN_S)
        self._reading.join()
        return code

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said.append(line)
            self._lines.put(line)
        self._lines.put("")


@contextmanager
def proof(*words: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Proof]:
    """In a group of its own, so that Ctrl-C can be sent as a terminal does: to all of it."""
    process = subprocess.Popen(
        [*PROGRAM, "prove", *words], cwd=folder, env=dict(environment), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    told = Proof(process)
    try:
        yield told
    finally:
        process.kill()
        told.ended()
        assert process.stderr
        process.stderr.close()


def alive(pid: int) -> bool:
    """A zombie is not: whoever is to bury it may not be in this container."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip() not in ("",) and not told.stdout.strip().startswith("Z")
