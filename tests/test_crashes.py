"""`ragline up`, killed by SIGKILL again and again while documents come, change, lose groups and go; see `bench.crashes`."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.crashes.harness import AT_START, RANDOM, Harness
from bench.crashes.ledger import Ledger, Version
from ragline import failpoints
from ragline.errors import ConfigurationError

PLACES = (
    "contents.put_original.after", "documents.accept.after", "vectors.upsert.after", RANDOM, "members.accept.after",
    "claims.mark_live.before",
    "namespaces.cut_over.after", "claims.mark_swept.before", AT_START,
)  # fmt: skip


@pytest.mark.timeout(1200)  # nine starts: half a minute on two idle cores, and no judgement on a busy machine
async def test_killed_at_any_moment_nothing_is_lost_doubled_stuck_or_leaked(tmp_path: Path) -> None:
    harness = Harness(tmp_path / "data", documents=60, at_first=24, new=12, changes=60, seed=4, searched=12)
    outcome = await harness.run(len(PLACES), PLACES)
    assert [kill.verdict.faults for kill in outcome.kills] == [[]] * len(PLACES)
    assert (outcome.last.faults, outcome.last.orphans) == ([], [])
    assert outcome.documents == 60
    assert outcome.last.searches >= 2 * 60, "at least each document for each reader, deleted ones by what they were"
    assert sum(kill.left.anything for kill in outcome.kills) * 3 >= len(PLACES), "too few kills met work in flight"
    assert sum(kill.cut_off for kill in outcome.kills) > 0


class Part:
    def __init__(self) -> None:
        self.calls = 0

    async def claim(self, words: str) -> str:
        self.calls += 1
        return words


DYING = """
import asyncio, sys
from ragline import failpoints

class Part:
    async def claim(self, n):
        print(n, flush=True)

part = Part()
failpoints.arm(sys.argv[1], {"claims": part})

async def main():
    for n in range(5):
        await part.claim(n)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("setting", "printed"),
    [("claims.claim.before", []), ("claims.claim.after:3", ["0", "1", "2"]), ("claims.claim.before:3", ["0", "1"])],
)
def test_a_failpoint_kills_the_process_at_its_call(setting: str, printed: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", DYING, setting], capture_output=True, text=True)
    said = [
        line for line in done.stdout.splitlines() if line.isdecimal()
    ]  # the warning that it is armed stands there too
    assert (done.returncode, said) == (-signal.SIGKILL, printed)


async def test_a_failpoint_waits_for_its_file(tmp_path: Path) -> None:
    part = Part()
    failpoints.arm(f"claims.claim.before:1@{tmp_path / 'armed'}", {"claims": part})
    assert await part.claim("alive") == "alive"
    assert part.calls == 1


@pytest.mark.parametrize(
    "wrong",
    ["claims.claim", "claims.claim.during", "nothing.at_all.before", "claims.claim.before:0", "claims.claim.after:x"],
)
def test_a_failpoint_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="names no point") as refused:
        failpoints.arm(wrong, {"claims": Part()})
    assert "leave it empty" in refused.value.next_step


async def test_every_point_stands_around_a_method_that_there_is(tmp_path: Path) -> None:
    from ragline.build import build
    from ragline.settings import Settings

    system = await build(Settings(data_dir=tmp_path, log="kafka://127.0.0.1:9"))
    try:
        for point in failpoints.POINTS:
            part, _, method = point.partition(".")
            assert callable(getattr(getattr(system, part), method)), point
    finally:
        await system.aclose()


def test_the_ledger_takes_both_for_what_was_in_flight_and_one_for_what_was_answered() -> None:
    ledger = Ledger()
    first, second = Version(1, 1), Version(1, 2)
    ledger.begin(first)
    entry = ledger.entries[1]
    assert list(entry.may_be) == [Version(1, None), first]
    ledger.acknowledge(first, 7, "id")
    assert list(entry.may_be) == [first]
    ledger.begin(second)
    assert list(entry.may_be) == [first, second]
