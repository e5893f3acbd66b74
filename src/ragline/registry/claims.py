"""What workers do with documents: claim one by lease, and advance it.

Every advance names the content and the attempt it was claimed with, and changes nothing when either has moved on: late
never wins. Each returns False then, and the worker drops what it has.
"""

from __future__ import annotations

from sqlalchemy import Connection

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.errors import Reason
from ragline.registry.rows import (
    CLAIM,
    END_LEASES,
    END_LEASES_BEYOND,
    END_LEASES_OFF_LOG,
    EPOCHS,
    FOREIGN,
    INTERRUPTED,
    INTERRUPTIONS,
    IS_BEYOND,
    IS_DUE,
    LEASED,
    LOGGED,
    LOOK_MINE,
    SWEEP_NOW,
    SWEPT,
    UPDATE,
    UPDATE_MINE,
    document_of,
    garbage_of,
    get_row,
    mine,
    move_visible,
    tell,
)  # fmt: skip
from ragline.types import Document, State

DIED = "the process that was at it ended"
"""What a document's story says of an attempt whose process was killed."""


class Claims:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def claim(self, *, most: int, lease_s: float) -> list[Document]:
        """Own up to `most` due documents, oldest change first, until the lease ends; each claim is a new attempt.

        An attempt that follows another is told: whoever had that one may have ended without a word.
        """

        now = self._now()
        if await self._database.read(lambda c: c.execute(IS_DUE, {"now": now}).first()) is None:
            return []
        given = {"now": now, "until": now + lease_s, "most": most}

        def work(connection: Connection) -> list[Document]:
            claimed = [document_of(row) for row in connection.execute(CLAIM, given).all()]
            for document in claimed:
                if document.attempt > 1:
                    self._event(connection, document, "begun again", f"attempt {document.attempt}", None)
            return claimed

        return sorted(await self._database.apart(work), key=lambda document: document.revision)

    async def mark_chunked(
        self, document: Document, *, chunks: int, title: str, took_s: float, language: str | None = None,
        warning: str = "",
    ) -> bool:  # fmt: skip
        """False: superseded; the caller drops the document. `warning`: the embedder does not know its `language`."""

        def work(connection: Connection) -> bool:
            values = {"state": State.CHUNKED, "chunks": chunks, "title": title, "language": language}
            changed = connection.execute(UPDATE_MINE, mine(document) | values).rowcount
            if changed:
                self._event(connection, document, "parsed", f"{chunks} chunks", took_s)
            if changed and warning:
                connection.execute(FOREIGN, {"which": document.namespace})
                self._event(connection, document, "warning", warning, None)
            return bool(changed)

        return await self._database.write(work)

    async def mark_live(
        self, document: Document, *, title: str, epochs: frozenset[str], event: str, detail: str, took_s: float
    ) -> bool:
        """Serve `document.content` from now on. Settled is what was indexed: a change of words meanwhile stays due.

        False: superseded, or the namespace's epochs are not `epochs` any more, and the rows must be written again.
        """

        def work(connection: Connection) -> bool:
            namespace = connection.execute(EPOCHS, {"which": document.namespace}).first()
            if namespace is None or {label for label in namespace if label} != epochs:
                return False
            old = connection.execute(LOOK_MINE, mine(document)).first()
            if old is None or old.state == State.DELETED:
                return False
            newly_live = old.live != document.content
            values = {
                "live": document.content, "live_blob": document.blob, "settled": document.revision, "reason": None,
                "title": title, "garbage": garbage_of(old, keep=(document.blob,)), "lease_until": 0.0, "attempt": 0,
                "state": State.INDEXED if old.revision == document.revision else State.CHUNKED,
                "sweep": SWEEP_NOW if old.sweep and newly_live else old.sweep,
            }  # fmt: skip
            connection.execute(UPDATE, {"which": document.id, **values})
            # Also where only the words have changed: readers see the new title from now on, not from when it was accepted.
            move_visible(connection, self._clock.now(), document.namespace, [document.id])
            self._event(connection, document, event, detail, took_s)
            return True

        return await self._database.write(work)

    async def mark_swept(self, document: Document) -> bool:
        """Rows of older contents and the blobs in `document.garbage` are gone; a tombstone is settled by this.

        Where a worker that lost its claim may still be writing, it is due once more when that cannot be any longer.
        """

        def work(connection: Connection) -> bool:
            old = connection.execute(LOOK_MINE, mine(document)).first()
            if old is None:
                return False
            left = [blob for blob in old.garbage if blob not in document.garbage]
            settled = document.revision if old.state == State.DELETED else old.settled
            late = old.late_until > self._now()
            values = {"garbage": left, "sweep": SWEEP_NOW if left or late else SWEPT, "settled": settled}
            until = 0.0 if left or not late else old.late_until
            connection.execute(UPDATE, {"which": document.id, "lease_until": until, "attempt": 0, **values})
            return True

        return await self._database.write(work)

    async def mark_failed(self, document: Document, reason: Reason, detail: str, *, took_s: float) -> bool:
        """Settle the revision as `failed`; an older content that is live goes on serving."""

        def work(connection: Connection) -> bool:
            old = connection.execute(LOOK_MINE, mine(document)).first()
            if old is None or old.state == State.DELETED:
                return False
            values = {"state": State.FAILED, "reason": f"{reason}: {detail}", "settled": old.revision}
            connection.execute(UPDATE, {"which": document.id, "lease_until": 0.0, **values})
            self._event(connection, document, "failed", f"{reason}: {detail}", took_s)
            return True

        return await self._database.write(work)

    async def end_all_leases(self, *, but_on_log: bool = False) -> None:
        """For whoever alone works on this registry and has just begun: what a killed process held is due again.

        `but_on_log`: not what was handed over to the chunk log, which has outlived that process.
        """

        def work(connection: Connection) -> None:
            now = self._now()
            for row in connection.execute(LEASED).all():
                if row.told != row.attempt:  # else it was given back in order, and waits for its next attempt
                    tell(connection, row.id, now, row.revision, row.attempt, INTERRUPTED, DIED)
            connection.execute(END_LEASES_OFF_LOG if but_on_log else END_LEASES)

        await self._database.write(work)

    async def deaths(self, document: Document) -> int:
        """How often a process ended while it was at this revision."""
        return (await self._interrupted(document))[0]

    async def interruptions(self, document: Document) -> int:
        """How often an attempt at this revision was interrupted while its process lived on. None for an engine that was away
        is among them."""
        return (await self._interrupted(document))[1]

    async def _interrupted(self, document: Document) -> tuple[int, int]:
        given = {"which": document.id, "revision": document.revision}
        rows = await self._database.read(lambda c: c.execute(INTERRUPTIONS, given).all())
        deaths = sum(row.detail == DIED for row in rows)
        return deaths, len(rows) - deaths

    async def end_leases_beyond(self, longest_s: float) -> int:
        """End leases that reach further ahead than any can be given for: the clock went back. Returns how many.

        Without this a document that was claimed, or given back for a second, before a clock was set back by a day would
        wait for a day. A worker that is still at it is fenced off by the next attempt.
        """

        beyond = {"beyond": self._now() + longest_s}
        if await self._database.read(lambda c: c.execute(IS_BEYOND, beyond).first()) is None:
            return 0

        def work(connection: Connection) -> int:
            ids = [id for (id,) in connection.execute(END_LEASES_BEYOND, beyond)]
            for id in ids:
                row = get_row(connection, id)
                words = "its lease reached too far ahead: the clock went back"
                tell(connection, id, self._now(), row.revision, row.attempt, "driven again", words)
            return len(ids)

        return await self._database.write(work)

    async def rewrite_words(self, id: str) -> None:
        """Make the stores' payload of an indexed document due again: something older may have been written over it.

        And a sweep, in any state: a store that replaces whole rows has maybe brought back those of a content that was swept.
        """

        def work(connection: Connection) -> None:
            old = get_row(connection, id)
            if old is None:
                return
            values: dict[str, object] = {"sweep": SWEEP_NOW}
            if old.settled >= old.revision:  # else somebody may be at it, and does both
                values |= {"lease_until": 0.0, "attempt": 0}
            if old.state == State.INDEXED:
                values |= {"state": State.CHUNKED, "settled": old.revision - 1}
            connection.execute(UPDATE, {"which": id, **values})

        await self._database.write(work)

    async def sweep_again(self, id: str, *, until_s: float = 0.0) -> bool:
        """Make removing what is not served due again, where nothing else is. False: there is no such document.

        `until_s`: for how long something that nobody waits for any more may still be written; after that it is due once more.
        """

        def work(connection: Connection) -> bool:
            old = get_row(connection, id)
            if old is None:
                return False
            values: dict[str, object] = {"late_until": max(old.late_until, self._now() + until_s)} if until_s else {}
            if old.settled >= old.revision:
                values |= {"sweep": SWEEP_NOW, "lease_until": 0.0, "attempt": 0}
                words = "what it does not serve is to be removed once more"
                tell(connection, id, self._now(), old.revision, 0, "driven again", words)
            if values:
                connection.execute(UPDATE, {"which": id, **values})
            return True

        return await self._database.write(work)

    async def drive_again(self, id: str, *, why: str) -> bool:
        """End the lease of a document on which work is due: the next claim fences off whoever has it.

        False: nothing is due on it any more.
        """

        def work(connection: Connection) -> bool:
            old = get_row(connection, id)
            if old is None or (old.settled >= old.revision and old.sweep != SWEEP_NOW):
                return False
            connection.execute(UPDATE, {"which": id, "lease_until": 0.0})
            tell(connection, id, self._now(), old.revision, old.attempt, "driven again", why)
            return True

        return await self._database.write(work)

    async def renew(self, document: Document, *, lease_s: float) -> bool:
        """Go on owning the document. False: it was superseded, or another worker has it."""

        def work(connection: Connection) -> bool:
            until = {"lease_until": self._now() + lease_s}
            return bool(connection.execute(UPDATE_MINE, mine(document) | until).rowcount)

        return await self._database.write(work)

    async def hand_over(self, document: Document, *, deadline_s: float, took_s: float) -> bool:
        """The chunk log drives the document from here; it is claimed again when that takes longer than `deadline_s`.

        False: it was superseded, or another worker has it.
        """

        def work(connection: Connection) -> bool:
            until = {"lease_until": self._now() + deadline_s}
            changed = connection.execute(UPDATE_MINE, mine(document) | until).rowcount
            if changed:
                self._event(connection, document, LOGGED, "its chunks are on the chunk log", took_s)
            return bool(changed)

        return await self._database.write(work)

    async def release(
        self, document: Document, *, after_s: float, detail: str = "", took_s: float | None = None,
        event: str = INTERRUPTED,
    ) -> None:  # fmt: skip
        """Give the claim back; another attempt may start in `after_s`. `detail`: what stood in this one's way."""

        def work(connection: Connection) -> None:
            until = {"lease_until": self._now() + after_s if after_s else 0.0}
            changed = connection.execute(UPDATE_MINE, mine(document) | until).rowcount
            if changed and detail:
                self._event(connection, document, event, detail, took_s)

        await self._database.write(work)

    def _now(self) -> float:
        """By the database's clock where it has one: a lease that one machine took must not have ended on another."""
        return self._clock.now() + self._database.ahead_s

    def _event(self, c: Connection, document: Document, event: str, detail: str, took_s: float | None) -> None:
        tell(c, document.id, self._now(), document.revision, document.attempt, event, detail, took_s)
