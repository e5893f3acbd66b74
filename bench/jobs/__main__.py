"""The job path: what accepting costs, what a saturated model costs retrieval, what followers cost, what kills change.

    python -m bench.jobs [--accept] [--queues] [--saturated] [--followers 10000] [--kills 100]

Without options: the first two. Each compares two things in one run, taking turns, because the machine is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench.figures import Figure, show
from bench.jobs import accepting, followers, kills, queues, saturated
from tests.engines.postgres import server


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.jobs")
    parser.add_argument("--accept", action="store_true")
    parser.add_argument("--queues", action="store_true")
    parser.add_argument("--saturated", action="store_true")
    parser.add_argument("--followers", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    given = parser.parse_args()
    everything = not (given.accept or given.queues or given.saturated or given.followers or given.kills)
    figures: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory(prefix="ragline-jobs-") as folder:
        for name in ("accept", "queues", "saturated", "followers", "kills"):
            Path(folder, name).mkdir()
        if given.accept or everything:
            figures["accept"] = asyncio.run(accepting.run(Path(folder, "accept")))
        if given.queues:
            figures["queues"] = asyncio.run(queues.run(Path(folder, "queues")))
        if given.saturated or everything:
            figures["saturated"] = asyncio.run(saturated.run(Path(folder, "saturated")))
        if given.followers:
            figures["followers"] = asyncio.run(followers.run(Path(folder, "followers"), many=given.followers))
        if given.kills:
            figures["kills"] = asyncio.run(_killed(Path(folder, "kills"), given.kills))
    show(figures, {})
    return int(any(one.met is False for many in figures.values() for one in many))


async def _killed(folder: Path, many: int) -> list[Figure]:
    with server() as postgres:
        outcome = await kills.run(await postgres.database(), folder, kills=many)
    for wrong in outcome.wrong:
        print(wrong, file=sys.stderr)
    return [
        Figure("workers killed in the middle of a stream", outcome.kills, at_least=many),
        Figure("jobs", outcome.jobs), Figure("restarts told", outcome.restarts),
        Figure("reconnects to the other replica", outcome.reconnects),
        Figure("webhooks that a receiver verified, one refused once", outcome.webhooks, at_least=outcome.jobs + 1),
        Figure("what did not hold", len(outcome.wrong), at_most=0),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
