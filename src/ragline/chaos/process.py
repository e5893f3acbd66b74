"""Faults of the process under test itself, from outside: it stands still, children are killed, a disk takes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

if sys.platform == "linux":
    import resource

CAN_FILL_DISK = sys.platform == "linux"
"""Elsewhere no process can set another's limits."""


def kill_children(pid: int) -> int:
    """SIGKILL to those that it has now. Returns how many there were."""
    told = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    mine = [int(child) for child, parent in map(str.split, told.splitlines()) if int(parent) == pid]
    for child in mine:
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(child, signal.SIGKILL)
    return len(mine)


class Pause:
    """From now on it stands still, until `end`: as a machine that is moved, or swaps, or is out of its share of CPU.

    By a process of its own, which lets it go on at the end of its standard input: so also where we are killed. What stands still
    cannot see to that by itself.
    """

    def __init__(self, pid: int) -> None:
        command = [sys.executable, "-m", "ragline.chaos.process", str(pid)]
        self._held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._held.stdout
        self._held.stdout.readline()

    def end(self) -> None:
        self._held.communicate()


def _hold(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    print("held", flush=True)
    sys.stdin.read()
    with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
        os.kill(pid, signal.SIGCONT)


def resident_mib(pid: int) -> float:
    """Memory that it holds now; 0.0: it has ended."""
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return int(told) / 1024 if told else 0.0


def fill_disk(pid: int, *, full: bool) -> None:
    """From now on, while `full`, the kernel refuses every byte that the process writes to a file: the disk is full for it alone.

    By RLIMIT_FSIZE 0, so the error is "File too large" where a full disk says "No space left on device"; pipes, sockets and
    reading are not concerned.
    """
    if sys.platform != "linux":
        raise RuntimeError("this system lets no process limit another")
    with contextlib.suppress(*([] if full else [ProcessLookupError])):  # one that has ended has no fault left
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))


if __name__ == "__main__":
    _hold(int(sys.argv[1]))
