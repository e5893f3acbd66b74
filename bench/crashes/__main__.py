"""The long run, and its table."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.crashes.harness import AT_START, RANDOM, VARIABLES, Harness, Kill, Outcome
from bench.crashes.service import Service, UnderTest

COLUMNS = (
    "killed",
    "kills",
    "in flight",
    "cut off",
    "lost",
    "doubled",
    "stuck",
    "leaked",
    "recovered in, median",
    "most",
)


def main() -> int:
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="ragline-crashes-") as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(_on_servers(given, folder) if given.servers else _embedded(given, folder))
    print(table(outcome))
    if given.json:
        given.json.write_text(json.dumps(_rows(outcome), indent=1))
    for kill in outcome.kills:
        for fault in kill.verdict.faults:
            print(f"{kill.at}: {fault}", file=sys.stderr)
    at_the_end = [*outcome.last.faults, *outcome.last.orphans]
    for fault in at_the_end:
        print(f"at the end: {fault}", file=sys.stderr)
    return int(any(kill.verdict.faults for kill in outcome.kills) or bool(at_the_end))


async def _embedded(given: argparse.Namespace, folder: Path) -> Outcome:
    return await _run(given, Service(folder / "data", VARIABLES))


async def _on_servers(given: argparse.Namespace, folder: Path) -> Outcome:
    from bench.crashes.fleet import Fleet, engines

    async with engines(folder / "engines") as servers:
        return await _run(given, Fleet(folder, VARIABLES, servers, dice=random.Random(given.seed)))


async def _run(given: argparse.Namespace, service: UnderTest) -> Outcome:
    harness = Harness(
        service, documents=given.documents, at_first=given.documents // 50, new=round(2.5 * given.documents / given.kills),
        changes=given.changes, seed=given.seed, tell=lambda words: print(words, file=sys.stderr, flush=True),
    )  # fmt: skip
    return await harness.run(given.kills, within_s=given.minutes * 60)


def table(outcome: Outcome) -> str:
    """Markdown: a row a place, the sum, and what the whole run was."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    places = sorted(
        {kill.at for kill in outcome.kills if kill.reached}, key=lambda at: (at not in (RANDOM, AT_START), at)
    )
    groups = [(at, [kill for kill in outcome.kills if kill.at == at and kill.reached]) for at in places]
    groups.append(("a failpoint not reached in time: at a random moment", [k for k in outcome.kills if not k.reached]))
    groups.append(("**all**", list(outcome.kills)))
    rows += [_row(name, kills) for name, kills in groups if kills]
    at_work = sum(kill.left.anything for kill in outcome.kills)
    return "\n".join(
        [
            *rows,
            "",
            f"{len(outcome.kills)} kills over {outcome.documents} documents in {outcome.editions} editions, "
            f"{at_work} with work in flight ({at_work / len(outcome.kills):.0%}); "
            f"{sum(kill.cut_off for kill in outcome.kills)} requests cut off, of which "
            f"{sum(kill.came_through for kill in outcome.kills)} had come through. "
            f"At the end {outcome.orphans_found} blobs had no owner, and {len(outcome.last.orphans)} after a round of the "
            f"housekeeper; {outcome.last.searches} searches at the end, "
            f"{sum(kill.verdict.searches for kill in outcome.kills)} before. {outcome.took_s / 60:.0f} minutes.",
            *(f"{words}: {times}." for words, times in sorted(outcome.tally.items())),
        ]
    )


def _row(name: str, kills: Sequence[Kill]) -> str:
    took = [kill.ready_s + kill.settled_s for kill in kills]
    verdicts = [kill.verdict for kill in kills]
    cells = (
        name, len(kills), sum(kill.left.anything for kill in kills), sum(kill.cut_off for kill in kills),
        sum(len(one.lost) for one in verdicts), sum(len(one.doubled) for one in verdicts),
        sum(len(one.stuck) for one in verdicts), sum(len(one.leaked) for one in verdicts),
        f"{median(took):.1f} s", f"{max(took):.1f} s",
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def _rows(outcome: Outcome) -> list[dict[str, object]]:
    return [
        {
            "at": kill.at, "reached": kill.reached, "due": kill.left.due, "at_work": kill.left.at_work,
            "building": kill.left.building, "cut_off": kill.cut_off, "came_through": kill.came_through,
            "ready_s": kill.ready_s, "settled_s": kill.settled_s, "faults": kill.verdict.faults,
        }
        for kill in outcome.kills
    ]  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.crashes", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=120, help="changes asked for between two kills")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="no further kill after so long; the end is checked"
    )
    parser.add_argument(
        "--servers", action="store_true", help="on PostgreSQL, Kafka, Milvus and Elasticsearch, each role a process"
    )
    parser.add_argument("--seed", type=int, default=1, help="of where the kills come and what changes")
    parser.add_argument("--work", type=Path, help="folder to keep data and log in")
    parser.add_argument("--json", type=Path, help="file for a line a kill")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
