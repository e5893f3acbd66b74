"""`ragline up`, killed by SIGKILL again and again while documents come, change, lose groups and go; see `bench.crashes`."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.crashes.books import Verdict
from bench.crashes.harness import AT_START, RANDOM, SETTLED_WITHIN_S, STUCK_AFTER_S, VARIABLES, Harness
from bench.crashes.ledger import Ledger, Version
from bench.crashes.service import Left, Service
from ragline import failpoints
from ragline.errors import ConfigurationError

PLACES = (
    "contents.put_original.after", "documents.accept.after", "vectors.upsert.after", RANDOM, "members.accept.after",
    "claims.mark_live.before",
    "namespaces.cut_over.after", "claims.mark_swept.before", AT_START,
)  # fmt: skip


@pytest.mark.timeout(1200)  # nine starts: half a minute on two idle cores, and no judgement on a busy machine
async def test_killed_at_any_moment_nothing_is_lost_doubled_stuck_or_leaked(tmp_path: Path) -> None:
    service = Service(tmp_path / "data", VARIABLES)
    harness = Harness(service, documents=60, at_first=24, new=12, changes=60, seed=4, searched=12)
    outcome = await harness.run(len(PLACES), PLACES)
    assert [kill.verdict.faults for kill in outcome.kills] == [[]] * len(PLACES)
    assert (outcome.last.faults, outcome.last.orphans) == ([], [])
    assert outcome.documents == 60
    assert outcome.last.searches >= 2 * 60, "at least each document for each reader, deleted ones by what they were"
    assert sum(kill.left.anything for kill in outcome.kills) * 3 >= len(PLACES), "too few kills met work in flight"
    assert sum(kill.cut_off for kill in outcome.kills) > 0


class Played(Service):
    """One whose work is due until `done_at`, which claims and gives back until `claims_until`, and writes stores and blobs
    until the times given for them. Seconds of its own clock, which moves when it is slept on."""

    def __init__(
        self, folder: Path, *, done_at: float, claims_until: float, stores_until: float, blobs_until: float
    ) -> None:
        super().__init__(folder, {})
        self.now = 0.0
        self.blobs_asked = 0
        self._done_at, self._claims_until = done_at, claims_until
        self._stores_until, self._blobs_until = stores_until, blobs_until

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def left(self) -> Left:
        at_work = round(self.now / 0.05) % 2 if self.now < self._claims_until else 0
        return Left(due=1 if self.now < self._done_at else 0, at_work=at_work, building=0)

    async def written(self) -> object:
        return min(self.now, self._stores_until), 1

    def blob_age_s(self) -> float:
        self.blobs_asked += 1
        return max(self.now - self._blobs_until, 0.0)


class Blind:
    """Books in which all is well."""

    async def check(self, url: str, *, searched: int | None) -> Verdict:
        return Verdict()


@pytest.mark.parametrize(
    ("what", "settled_s", "is_stuck"),
    [
        pytest.param({"stores_until": 40.0}, 40.0 + STUCK_AFTER_S, True, id="nothing moves any more"),
        pytest.param({"blobs_until": 300.0}, 300.0 + STUCK_AFTER_S, True, id="blobs were written last"),
        pytest.param({"blobs_until": 300.0, "done_at": 360.0}, 360.0, False, id="it embeds for long"),
        pytest.param({"claims_until": math.inf}, SETTLED_WITHIN_S, True, id="claimed and given back for ever"),
        pytest.param({"stores_until": math.inf}, SETTLED_WITHIN_S, True, id="written for ever"),
        pytest.param({"blobs_until": math.inf}, SETTLED_WITHIN_S, True, id="embedded for ever"),
        pytest.param({"done_at": 0.0}, 0.0, False, id="nothing to do"),
    ],
)
async def test_stuck_is_what_does_not_move_or_moves_for_far_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: dict[str, float], settled_s: float, is_stuck: bool
) -> None:
    given = {"done_at": math.inf, "claims_until": 0.0, "stores_until": 0.0, "blobs_until": 0.0} | what
    service = Played(tmp_path, **given)
    harness = Harness(service, documents=1, at_first=1, new=1, changes=1, seed=1)
    monkeypatch.setattr("bench.crashes.harness.time", SimpleNamespace(perf_counter=lambda: service.now))
    monkeypatch.setattr("bench.crashes.harness.asyncio", SimpleNamespace(sleep=service.sleep))
    settled = await harness._settled()
    assert settled == pytest.approx(settled_s, abs=1.0)
    books: Any = Blind()
    assert bool((await harness._check(books, settled, searched=None)).stuck) is is_stuck
    assert service.blobs_asked <= settled_s / STUCK_AFTER_S + 1, "the whole folder is not read at each look"


def test_the_age_of_blobs_is_that_of_the_newest(tmp_path: Path) -> None:
    service, written_at = Service(tmp_path, {}), time.time()
    assert service.blob_age_s() == math.inf
    for name, age_s in (("old", 5_000.0), ("newest", 1_000.0), ("older", 3_000.0)):
        path = tmp_path / "blobs" / "default" / name / "original"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"Herons wade.")
        os.utime(path, (written_at - age_s,) * 2)
    before, age_s, after = time.time(), service.blob_age_s(), time.time()
    newest_at, rounding_s = written_at - 1_000.0, 1e-3
    assert before - newest_at - rounding_s <= age_s <= after - newest_at + rounding_s


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
