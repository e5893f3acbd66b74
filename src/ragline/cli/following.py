"""`ragline ingest --watch`: a sync for every rest after changes, until Ctrl-C.

What the operating system says is only the moment to look: each look is a whole sync, so an event that was lost, or a
folder on a network that tells none, costs time and never a document.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from watchfiles import Change, awatch

from ragline.cli.failures import WrongUsage
from ragline.cli.session import Session
from ragline.cli.sync import Following, Synced, sync
from ragline.errors import RaglineError

REST_MS = 1_000
"""How long nothing may change before it is looked at: a file that is being written is not read halfway."""

MOST_MS = 30_000
"""How long changes may go on before it is looked at all the same."""

LOOK_ANYWAY_MS = 300_000
"""Without any event: network mounts tell none."""

AGAIN_S = (1.0, 60.0)
"""First and longest wait after a sync that failed."""


async def follow(session: Session, what: Following) -> Synced:
    """Sync now, and whenever the folder has changed, until cancelled; returns all that was done.

    Raises:  as `sync`, from the first one; later ones are tried again until they succeed.
    """
    root = await asyncio.to_thread(_root, what.place)

    def counts(_: Change, path: str) -> bool:
        try:
            parts = Path(path).relative_to(root).parts
        except ValueError:  # behind a link
            return True
        return not any(part.startswith(".") for part in parts)  # our own data folder is one of these

    changes = awatch(
        root, watch_filter=counts, step=REST_MS, debounce=MOST_MS, rust_timeout=LOOK_ANYWAY_MS, yield_on_timeout=True,
        ignore_permission_denied=True,
    )  # fmt: skip
    following = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)  # it watches from here on, so what changes during the first sync is not missed
    total: Synced | None = None
    try:
        total = await sync(session, what)
        _tell(session, total)
        session.screen.note(f"Watching {root}; Ctrl-C stops it.")
        while True:
            await following
            following = asyncio.ensure_future(anext(changes))
            done = await _until_done(session, what)
            _tell(session, done)
            _add(total, done)
    except asyncio.CancelledError:
        if total is None:
            raise
        session.screen.note("Stopped.")  # a signal is how watching ends
        return total
    finally:
        following.cancel()
        await asyncio.wait([following])
        await changes.aclose()


def _root(place: str) -> Path:
    root = Path(place).resolve()
    if not root.is_dir():
        raise WrongUsage(f"{place} is no folder.", next_step="Watch the folder that holds it.")
    return root


async def _until_done(session: Session, what: Following) -> Synced:
    wait_s = AGAIN_S[0]
    while True:
        try:
            return await sync(session, what, ask=False)
        except RaglineError as error:
            session.screen.note(f"{error} Tried again in {wait_s:.0f} s.")
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_S[1], wait_s * 2)


def _tell(session: Session, done: Synced) -> None:
    sent, failed = len(done.tally.accepted), done.tally.troubles
    if sent or done.deleted or done.kept:
        session.screen.note(f"{sent} new or changed, {done.deleted} deleted, {len(failed)} failed.")
    if done.kept:
        session.screen.note(
            f"{done.kept} vanished at once: kept, for it may be a disk that is gone. `--sync --yes` deletes them."
        )


def _add(total: Synced, done: Synced) -> None:
    total.tally.accepted.update(done.tally.accepted)
    total.tally.sequence = max(total.tally.sequence, done.tally.sequence)
    total.tally.troubles = done.tally.troubles  # each sync names all that fails now
    total.unchanged, total.failed, total.kept = done.unchanged, done.failed, done.kept
    total.deleted += done.deleted
