"""Work that may wait runs below the searches' priority."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

NICENESS = 10
"""Steps below normal priority: searches are served first, and what may wait still gets a tenth of a busy core."""


def lower_priority() -> None:
    """Of the calling thread, and of the threads that it begins; elsewhere than on Linux a thread has no priority of its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # forbidden here: at normal priority it is still right, and a pool would be broken
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS))
