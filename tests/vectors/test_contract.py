"""The contract fails for every store that breaks a promise: a suite that passes whatever it is given proves nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.vectors.broken_stores import BROKEN

HERE = Path(__file__).with_name("broken_stores.py")
QUICK = "not small_groups and not found[1.0] and not found[0.3]"
"""The slow ones catch what others catch as well."""


def test_no_broken_store_passes() -> None:
    command = [sys.executable, "-m", "pytest", str(HERE), "-q", "--tb=no", "-p", "no:cacheprovider", "-rf", "-k", QUICK]
    told = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[2])
    failed = set(re.findall(r"^FAILED \S+::Test(\w+)::", told.stdout, re.MULTILINE))
    assert told.returncode == 1, told.stdout[-2_000:] + told.stderr[-2_000:]
    assert {one.__name__ for one in BROKEN} - failed == set()
