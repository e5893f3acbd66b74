"""What a content leaves in the blob store: the bytes, the text with its chunks, the vectors of each space.

    {namespace}-{uid}/{document}/{blob}/original
                                       /chunks-{content}              JSON: the text once, and the chunks as spans of it
                                       /vectors-{content}-{space}     NumPy array, float32, (chunks, dim)

Stores are derived from these: `ragline reindex` rebuilds any of them without parsing or embedding again. Only the bytes
must survive power loss; the rest is made again when it is missing or torn.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ragline.chunking import chunk_id
from ragline.errors import NotFound
from ragline.protocols import Blobs, Vectors
from ragline.types import BlobEntry, Chunk, Document, Namespace, Space, Span

A = TypeVar("A")
R = TypeVar("R")

SHORT = 100_000
"""Characters or bytes of a content that are written or read on the event loop: half a millisecond."""


@dataclass(frozen=True, slots=True)
class Content:
    """A parsed content: its text, the title found in it, and its chunks as spans of the text."""

    text: str
    title: str | None
    spans: tuple[Span, ...]

    def chunks(self, document: Document, number: int) -> list[Chunk]:
        """The chunks of `document` at content `number`, in order."""
        return [
            Chunk(
                id=chunk_id(document.namespace, document.id, number, ordinal),
                document=document.id,
                content=number,
                ordinal=ordinal,
                text=self.text[span.start : span.end],
                start=span.start,
                end=span.end,
                page=span.page,
                headings=span.headings,
            )
            for ordinal, span in enumerate(self.spans)
        ]


@dataclass(frozen=True, slots=True)
class Kept:
    """One blob as it lies in the store: of which document and upload (`blob`), and what it is.

    part: ``original``, ``chunks`` or ``vectors``; "" for what a killed write has left, and for strangers.
    Units: `size` bytes; `modified_at` seconds since 1970, None where the store does not say.
    """

    path: str
    document: str
    blob: str
    part: str
    content: int | None
    size: int
    modified_at: float | None


class Contents:
    """Reads and writes the blobs of contents."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def put_original(self, namespace: Namespace, document: str, blob: str, data: bytes) -> None:
        await self._blobs.put(f"{_folder(namespace, document, blob)}/original", data)

    async def heal_original(self, namespace: Namespace, document: Document, data: bytes) -> None:
        """Put the bytes of `document` where they were when they are gone, or torn; `data`: the same, uploaded again."""
        if document.blob is None:  # deleted meanwhile
            return
        path = f"{_folder(namespace, document.id, document.blob)}/original"
        entries = await self._blobs.entries(path.rpartition("/")[0])
        if not any((entry.path, entry.size) == (path, len(data)) for entry in entries):
            await self._blobs.put(path, data)

    async def original(self, namespace: Namespace, document: str, blob: str) -> bytes:
        """Raises NotFound."""
        return await self._blobs.get(f"{_folder(namespace, document, blob)}/original")

    async def put(self, namespace: Namespace, document: Document, content: Content) -> None:
        path = f"{_folder(namespace, document.id, document.blob)}/chunks-{document.content}"
        await self._blobs.put(path, await off_loop(_written, content), durable=False)

    async def get(self, namespace: Namespace, document: Document, blob: str, number: int) -> Content | None:
        """None when it is missing or torn, and must be parsed again."""
        try:
            data = await self._blobs.get(f"{_folder(namespace, document.id, blob)}/chunks-{number}")
            return await off_loop(_read, data)
        except (NotFound, ValueError):
            return None

    async def put_vectors(self, namespace: Namespace, document: Document, space: Space, vectors: Vectors) -> None:
        buffer = io.BytesIO()
        np.save(buffer, vectors, allow_pickle=False)
        path = _vectors(namespace, document, document.blob, document.content, space)
        await self._blobs.put(path, buffer.getvalue(), durable=False)

    async def vectors(
        self, namespace: Namespace, document: Document, blob: str, number: int, space: Space, count: int
    ) -> Vectors | None:
        """Shapes: (count, space.dim). None when missing, torn or of another shape: they must be embedded again."""
        try:
            data = await self._blobs.get(_vectors(namespace, document, blob, number, space))
            vectors = np.load(io.BytesIO(data), allow_pickle=False)
        except (NotFound, ValueError, EOFError):
            return None
        return vectors if vectors.shape == (count, space.dim) else None

    async def sweep(self, namespace: Namespace, document: str, garbage: Sequence[str]) -> None:
        for blob in garbage:
            await self._blobs.delete(_folder(namespace, document, blob))

    async def keep_only(self, namespace: Namespace, document: Document) -> None:
        """Remove what earlier parses of the same bytes have left beside the live content."""
        if document.live_blob is None:
            return
        live = document.live
        await self._delete(namespace, document, document.live_blob, lambda number: live is not None and number < live)

    async def discard(self, namespace: Namespace, document: Document) -> None:
        """Remove what was made of one content whose bytes another content of the document shares."""
        await self._delete(namespace, document, document.blob, lambda number: number == document.content)

    async def _delete(
        self, namespace: Namespace, document: Document, blob: str | None, gone: Callable[[int], bool]
    ) -> None:
        for path in await self._blobs.paths(_folder(namespace, document.id, blob)):
            kind, _, rest = path.rsplit("/", 1)[-1].partition("-")
            if kind in ("chunks", "vectors") and gone(int(rest.split("-", 1)[0])):
                await self._blobs.delete(path)

    async def kept(self, namespace: Namespace, document: str | None = None) -> list[Kept]:
        """Everything that lies in the blob store for `namespace`, or for one document of it."""
        top = f"{namespace.name}-{namespace.uid}"
        entries = await self._blobs.entries(top if document is None else f"{top}/{document}")
        return await asyncio.to_thread(lambda: [_kept(entry) for entry in entries])

    async def namespaces(self) -> set[str]:
        """The folders of namespaces that there are, as ``name-uid``."""
        return set(await self._blobs.folders())

    async def forget(self, path: str) -> None:
        """Remove one blob, or one folder of an upload, that no row of the registry names."""
        await self._blobs.delete(path)

    async def delete_namespace(self, namespace: str, uid: str) -> None:
        await self._blobs.delete(f"{namespace}-{uid}")


def by_document(kept: Sequence[Kept]) -> dict[str, list[Kept]]:
    found: dict[str, list[Kept]] = {}
    for one in kept:
        found.setdefault(one.document, []).append(one)
    return found


async def off_loop(work: Callable[[A], R], given: A) -> R:
    """A long text takes longer to write or read than the event loop may stand still; a short one less than a hop."""
    size = len(given) if isinstance(given, bytes) else len(given.text) if isinstance(given, Content) else 0
    return work(given) if size < SHORT else await asyncio.to_thread(work, given)


def _written(content: Content) -> bytes:
    spans = [(s.start, s.end, s.page, s.headings) for s in content.spans]
    stored = {"title": content.title, "text": content.text, "spans": spans}
    return json.dumps(stored, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _read(data: bytes) -> Content:
    stored = json.loads(data.decode("utf-8", "surrogatepass"))
    spans = tuple(Span(start, end, page, tuple(headings)) for start, end, page, headings in stored["spans"])
    return Content(stored["text"], stored["title"], spans)


def _kept(entry: BlobEntry) -> Kept:
    _, document, blob, name = (*entry.path.split("/", 3), "", "", "")[:4]
    part, _, rest = name.partition("-")
    number = rest.partition("-")[0]
    known = name == "original" or (part in ("chunks", "vectors") and number.isdecimal())
    return Kept(
        path=entry.path, document=document, blob=blob, part=part if known else "",
        content=int(number) if known and number else None, size=entry.size, modified_at=entry.modified_at,
    )  # fmt: skip


def _folder(namespace: Namespace, document: str, blob: str | None) -> str:
    assert blob, "a document that is not deleted has a blob"
    return f"{namespace.name}-{namespace.uid}/{document}/{blob}"


def _vectors(namespace: Namespace, document: Document, blob: str | None, number: int, space: Space) -> str:
    return f"{_folder(namespace, document.id, blob)}/vectors-{number}-{space.id}"
