"""Items on their way into the index: uploaded, and watched until all is settled, with a line that moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from ragline.cli.progress import LOOK_S, next_look, progress
from ragline.cli.session import Session
from ragline.cli.sources import Item, Trouble
from ragline.cli.upload import Tally, Uploader
from ragline.cli.watch import failures, inside, look


async def deliver(
    session: Session, namespace: str, items: Iterator[Item], uploader: Uploader, tally: Tally, *,
    total: int | None, wait: bool,
) -> list[Trouble]:  # fmt: skip
    """Upload, and with `wait` watch until all is settled; returns what failed on the way to the index.

    `total`: how many items, None while it is not known.  Raises Refused, NotReachable.
    """
    server, start, wait_s = session.server, time.perf_counter(), LOOK_S[0]
    before = await look(server, namespace, {})
    sending = asyncio.create_task(uploader.send(items))
    try:
        with progress(session.screen, "Indexing") as show:
            while True:
                sent = sending.done()
                if sent and (not wait or sending.exception()):
                    break
                standing = await look(server, namespace, tally.accepted)
                if sent and not standing.waiting:
                    break
                done = len(tally.accepted) - standing.waiting
                failed = max(0, standing.failed - before.failed) + len(tally.troubles)
                rate = done / (time.perf_counter() - start)
                show(
                    done,
                    tally.found if sent else total,
                    f"documents · {standing.chunks - before.chunks} chunks · {rate:.0f}/s · {failed} failed",
                )
                if sent:
                    await asyncio.sleep(wait_s)
                else:
                    await asyncio.wait([sending], timeout=wait_s)
                wait_s = next_look(wait_s)
        await sending
    finally:
        sending.cancel()
        await asyncio.wait([sending])
    if not wait:
        return []
    lost = await failures(server, namespace, tally.accepted)
    tally.inside = await inside(server, namespace, tally.accepted)
    tally.inside_failed = sum(trouble.id not in tally.accepted for trouble in lost)
    return lost
