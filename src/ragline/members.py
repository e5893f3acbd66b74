"""Files inside documents become documents of their own: `a.zip!/b.txt`, with the readers and the metadata of `a.zip`.

Called by the ingest path between parsing a document and writing down that it is parsed. Each step may be repeated: a
crash anywhere parses the container again, and finds by their fingerprints what it had accepted before.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping, Sequence

from ragline.contents import Contents
from ragline.errors import DocumentRejected, Reason
from ragline.registry import members
from ragline.registry.acceptance import INSIDE, Incoming, document_id, fingerprint
from ragline.settings import IngestSettings
from ragline.types import Document, Member, Namespace, Parsed

AT_ONCE = 32
"""Files whose bytes are written together; their rows too, but for an archive in another, whose rows are one write."""

MOST_TOLD = 20
"""Files left out that a document's story names one by one."""


class Members:
    def __init__(self, *, contents: Contents, registry: members.Members, settings: IngestSettings) -> None:
        self._contents = contents
        self._registry = registry
        self._settings = settings

    async def take(self, namespace: Namespace, document: Document, parsed: Parsed) -> bool:
        """Accept what `parsed` holds, and delete what `document` held before and does not any more.

        False: superseded.  Raises DocumentRejected(TOO_LARGE): too many, too large, too deep.
        """
        if not parsed.members and not parsed.left_out and not document.members:
            return True
        held, left_out = parsed.members, list(parsed.left_out)
        if held and document.depth >= self._settings.max_members_depth:
            if not parsed.text.strip():
                raise _too_deep(self._settings.max_members_depth)
            left_out += [f"{member.name}: nested too deep" for member in held]
            held = ()
        check, step = None, AT_ONCE
        if held and document.depth:  # those of the outermost one the parser has counted
            check, step = self._check(held), len(held)  # all in one write: what is refused leaves nothing behind
            check(*await self._registry.elsewhere(document))  # before bytes are written for nothing
        taken: set[str] = set()
        for start in range(0, len(held), step):
            result = await self._accept(namespace, document, held[start : start + step], check)
            if result is None:
                return False
            taken |= result[0]
            left_out += result[1]
        return await self._registry.keep_only(document, taken, told=_told(len(taken), left_out))

    async def _accept(
        self, namespace: Namespace, document: Document, part: Sequence[Member], check: members.Check | None
    ) -> tuple[set[str], list[str]] | None:
        """The uris that were taken, and why others were not. None: superseded. Raises DocumentRejected, by `check`."""
        incoming: list[tuple[str, Incoming]] = []
        for start in range(0, len(part), AT_ONCE):
            some = part[start : start + AT_ONCE]
            incoming += await asyncio.gather(*(self._keep(namespace, document, member) for member in some))
        try:
            result = await self._registry.accept(namespace, document, [one for _, one in incoming], check=check)
        except DocumentRejected:
            await self._sweep(namespace, incoming, {})
            raise
        read = result[0] if result is not None else dict[str, Document]()
        for (_, one), member in zip(incoming, part, strict=True):
            row = read.get(one.uri)
            if row is not None and row.blob != one.blob:  # unchanged: what it reads may be gone all the same
                await self._contents.heal_original(namespace, row, member.data)
        await self._sweep(namespace, incoming, read)
        return (set(read), result[1]) if result is not None else None

    async def _sweep(
        self, namespace: Namespace, incoming: Sequence[tuple[str, Incoming]], read: Mapping[str, Document]
    ) -> None:
        """Drop the bytes that no document reads: unchanged, refused, or all of it came too late."""
        for id, one in incoming:
            row = read.get(one.uri)
            if row is None or row.blob != one.blob:
                await self._contents.sweep(namespace, id, [one.blob])

    async def _keep(self, namespace: Namespace, document: Document, member: Member) -> tuple[str, Incoming]:
        """Write the bytes. Returns the member's id and what is to stand in its row; readers and words are its parent's."""
        uri = f"{document.uri}{INSIDE}{member.name}"
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(member.data).hexdigest())
        incoming = Incoming(
            uri=uri, title=None, media_type=None, size=len(member.data), sha256=sha256,
            fingerprint=fingerprint(sha256, None, namespace.settings), blob=secrets.token_hex(8),
            groups=document.groups, metadata=document.metadata,
        )  # fmt: skip
        id = document_id(namespace, uri)
        await self._contents.put_original(namespace, id, incoming.blob, member.data)
        return id, incoming

    def _check(self, held: Sequence[Member]) -> members.Check:
        """The limits hold for the outermost document as a whole: archives in archives are one."""
        most, most_bytes = self._settings.max_members, self._settings.max_members_bytes
        own = sum(len(member.data) for member in held)

        def check(count: int, size: int) -> None:
            if count + len(held) > most or size + own > most_bytes:
                raise DocumentRejected(
                    Reason.TOO_LARGE,
                    f"With it, the outermost archive or mail holds more than {most:,} files, or {most_bytes >> 20} MiB.",
                    next_step="Split it, or raise RAGLINE_INGEST__MAX_MEMBERS and RAGLINE_INGEST__MAX_MEMBERS_BYTES.",
                )

        return check


def _too_deep(most: int) -> DocumentRejected:
    return DocumentRejected(
        Reason.TOO_LARGE,
        f"It is an archive or mail more than {most} deep in others.",
        next_step="Unpack it and upload what is inside, or raise RAGLINE_INGEST__MAX_MEMBERS_DEPTH.",
    )


def _told(count: int, left_out: Sequence[str]) -> str:
    words = f"{count} files inside are documents of their own"
    if not left_out:
        return words
    more = f"; and {len(left_out) - MOST_TOLD} more" if len(left_out) > MOST_TOLD else ""
    return f"{words}; left out: {'; '.join(left_out[:MOST_TOLD])}{more}"
