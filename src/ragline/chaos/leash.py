"""A process that must not outlive the one that started it: not even where that one is killed and can clean up no more.

Whoever starts it holds the other end of its standard input, and says nothing there: the end of it is the end of both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading

COMMAND = (
    sys.executable, "-c",
    "from ragline.chaos import leash; leash.hold(); from ragline.cli.main import run; run()",
)  # fmt: skip
"""Of a Ragline command on a leash."""

WALK = (sys.executable, "-m", "ragline.chaos.leash")
"""Before the command of a program that is not ours."""


def hold() -> None:
    """From now on this process ends, at once, when its standard input does."""
    threading.Thread(target=_watch, name="leash", daemon=True).start()


def _watch() -> None:
    _until_let_go()
    os._exit(1)


def _until_let_go() -> None:
    while os.read(0, 1):
        pass


def _walk(command: list[str]) -> int:
    """Run it; killed when this process's standard input ends."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as walked:

        def follow() -> None:
            _until_let_go()
            walked.kill()

        threading.Thread(target=follow, daemon=True).start()
        return walked.wait()


if __name__ == "__main__":
    sys.exit(_walk(sys.argv[1:]))
