"""Items to the server: several in a request, a few requests at once, no faster than the server wants.

An upload may be repeated: bytes that are known already change nothing. So whatever may succeed later is tried again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ragline.cli.connection import Connection
from ragline.cli.failures import NotReachable, Refused
from ragline.cli.sources import Item, Trouble, open_item

MOST_ITEMS = 64
"""Items in a request."""

MOST_BYTES = 8 << 20
"""Bytes in a request; a larger item goes alone, read from its file while it is sent."""

IN_FLIGHT = 3
"""Requests at once: one is read here, one is on its way, one is written there."""

MOST_TRIES = 6
"""Tries of a request that fails on the way or in an engine: half a minute. A 429 is waited out for as long as it takes."""

OWN_FAULT = {409, 413, 415, 422}
"""Answers that may be one item's fault alone."""


SHARED = ("groups", "namespace", "source")
"""Fields that all items of a request share: what is wrong with one of them is wrong with every request."""


@dataclass(slots=True)
class Tally:
    """What has become of the items so far. `accepted`: document id → (uri, revision). `inside`, `inside_failed`: how many
    files inside these are indexed, or failed, once that was waited for.

    Units: `sent_bytes` in bytes.
    """

    accepted: dict[str, tuple[str, int]] = field(default_factory=dict)
    unchanged: int = 0
    troubles: list[Trouble] = field(default_factory=list)
    found: int = 0
    sent_bytes: int = 0
    inside: int = 0
    inside_failed: int = 0
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """The source a sync follows. `words` stand behind each version: what else than its file decides on a document."""

    name: str
    words: str

    def version(self, seen: str) -> str:
        return seen and f"{seen}-{self.words}"


class Uploader:
    """`source`: the documents are brought as its. `pause` waits before the next try, in seconds."""

    def __init__(
        self, server: Connection, namespace: str, groups: Sequence[str], tally: Tally, *, source: Source | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._server = server
        self._namespace = namespace
        self._groups = list(groups)
        self._tally = tally
        self._source = source
        self._pause = pause
        self._turn = asyncio.Lock()

    async def send(self, items: Iterator[Item]) -> None:
        """Raises Refused, NotReachable: it makes no sense to go on."""
        batches = _batches(items)
        senders = [asyncio.create_task(self._sender(batches)) for _ in range(IN_FLIGHT)]
        try:
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.wait(senders)

    async def _sender(self, batches: Iterator[list[Item]]) -> None:
        while True:
            async with self._turn:
                batch = await asyncio.to_thread(next, batches, None)
            if batch is None:
                return
            self._tally.found += len(batch)
            await self._deliver(batch)

    async def _deliver(self, batch: list[Item]) -> None:
        """Until the server has taken each item or said why not."""
        try:
            answer = await self._persist(batch)
        except OSError as error:
            answer = await self._halved(batch, f"cannot be read: {error.strerror or error}")
        except Refused as refused:
            if refused.http_status not in OWN_FAULT or refused.problem.get("field") in SHARED:
                raise
            answer = await self._halved(batch, f"refused: {refused}")
        for document in answer["documents"]:
            if document.get("id"):
                self._tally.accepted[document["id"]] = (document["uri"], document["revision"])
                self._tally.unchanged += document.get("outcome") == "unchanged"
            else:
                self._tally.troubles.append(Trouble(document["uri"], f"refused: {document['reason']}"))
        self._tally.sequence = max(self._tally.sequence, answer["sequence"])

    async def _halved(self, batch: list[Item], reason: str) -> dict[str, Any]:
        """Something in `batch` is at fault: alone it is reported, else each half is delivered by itself."""
        if len(batch) == 1:
            self._tally.troubles.append(Trouble(batch[0].uri, reason))
        else:
            middle = len(batch) // 2
            await self._deliver(batch[:middle])
            await self._deliver(batch[middle:])
        return {"documents": [], "sequence": 0}

    async def _persist(self, batch: list[Item]) -> Any:
        tries = 0
        while True:
            try:
                return await self._post(batch)
            except Refused as refused:
                tries += refused.http_status != 429
                if not refused.problem.get("retryable") or tries >= MOST_TRIES:
                    raise
                wait_s = refused.retry_after_s or min(10.0, 2.0**tries)
            except NotReachable:
                tries += 1
                if tries >= MOST_TRIES:
                    raise
                wait_s = min(10.0, 2.0**tries)
            await self._pause(wait_s)

    async def _post(self, batch: list[Item]) -> Any:
        form: dict[str, str | list[str]] = {
            "uri": [item.uri for item in batch],
            "title": [item.title for item in batch],
            "metadata": [json.dumps(item.metadata) for item in batch],
            "groups": self._groups,
        }
        with ExitStack() as stack:
            files: list[tuple[str, Any]] = []
            versions: list[str] = []
            for item in batch:
                content, version = await asyncio.to_thread(open_item, item)
                if not isinstance(content, bytes):
                    stack.enter_context(content)
                    if item.size <= MOST_BYTES:
                        content = await asyncio.to_thread(content.read)
                files.append((item.media_type, content))
                versions.append(version)
            if self._source:
                form["source"] = self._source.name
                form["version"] = [self._source.version(version) for version in versions]
            answer = await self._server.upload(self._namespace, files=files, form=form)
        self._tally.sent_bytes += sum(item.size for item in batch)
        return answer


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and (len(batch) == MOST_ITEMS or size + item.size > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch
