"""A process that stands still goes on when whoever holds it has ended, in whatever way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragline.chaos.process import Pause, resident_mib

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def pid() -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child.pid
        child.kill()


def _stands_still(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _goes_on(pid: int) -> bool:
    for _ in range(1000):
        if not _stands_still(pid):
            return True
        time.sleep(0.01)
    return False


def test_it_stands_still_until_the_pause_ends(pid: int) -> None:
    pause = Pause(pid)
    assert _stands_still(pid)
    pause.end()
    assert _goes_on(pid)
    assert resident_mib(pid) > 0


def test_it_goes_on_when_its_holder_is_killed(pid: int) -> None:
    words = f"import time; from ragline.chaos.process import Pause; Pause({pid}); print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        assert _stands_still(pid)
        os.kill(holder.pid, signal.SIGKILL)
    assert _goes_on(pid)


def test_one_that_was_killed_meanwhile_is_nobodys_error(pid: int) -> None:
    pause = Pause(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)  # else it is still there to be told
    pause.end()
    assert pause._held.returncode == 0
