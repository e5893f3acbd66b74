"""A child process that writes without end, killed at a moment nobody chose."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path


def killed_after(acknowledged: int, writer: str, folder: Path, start: int) -> list[int]:
    """What the child acknowledged, a number a line; SIGKILL comes somewhere after `acknowledged` of them.

    `writer` is the child's source; it gets `folder` and `start` as its arguments.
    """
    with subprocess.Popen([sys.executable, "-c", writer, str(folder), str(start)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(acknowledged)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    return [int(line) for line in lines if line.endswith(b"\n")]
