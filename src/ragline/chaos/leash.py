"""A process that must not outlive the one that started it: not even where that one is killed and can clean up no more.

Whoever starts it holds the other end of its standard input, and says nothing there: the end of it is the end of both.
"""

from __future__ import annotations

import os
import sys
import threading

COMMAND = (
    sys.executable, "-c",
    "from ragline.chaos import leash; leash.hold(); from ragline.cli.main import run; run()",
)  # fmt: skip
"""Of a Ragline command on a leash."""


def hold() -> None:
    """From now on this process ends, at once, when its standard input does."""
    threading.Thread(target=_watch, name="leash", daemon=True).start()


def _watch() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
