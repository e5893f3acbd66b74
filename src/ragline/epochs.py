"""The life of an epoch: its collections made, filled, cut over to, dropped.

A re-index builds a namespace's stores anew, beside the ones that serve. From the moment the building epoch is
registered, the ingest path writes to both; this fills in the rest from the blobs, document by document, and cuts over
when both stand at the same sequence. It can be killed and started again at any line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import structlog

from ragline.chunking import search_text
from ragline.contents import Content, Contents
from ragline.errors import ConfigurationError, EngineUnavailable, NotFound
from ragline.ingest import Ingest, records
from ragline.protocols import KeywordIndex, Vectors, VectorStore
from ragline.registry.documents import Documents
from ragline.registry.namespaces import Namespaces
from ragline.snapshots import Snapshots
from ragline.stores import Stores
from ragline.types import Document, Epoch, Namespace, NamespaceSettings, Space, State

log = structlog.get_logger()

PAGE = 500
"""Documents read from the registry at a time."""

AT_ONCE = 32
"""Documents copied at once: a write to a server takes some tenths of a second, however few are in it; few enough that fresh
documents are not held up."""


@dataclass(slots=True)
class Progress:
    """Units: documents."""

    done: int = 0
    total: int = 0


class Epochs:
    def __init__(
        self, *, namespaces: Namespaces, documents: Documents, contents: Contents, ingest: Ingest, stores: Stores,
        vectors: VectorStore, keywords: KeywordIndex, snapshots: Snapshots, space: Space, drop_after_s: float,
    ) -> None:  # fmt: skip
        self._namespaces = namespaces
        self._documents = documents
        self._contents = contents
        self._ingest = ingest
        self._stores = stores
        self._vectors = vectors
        self._keywords = keywords
        self._snapshots = snapshots
        self._space = space
        self._drop_after_s = drop_after_s
        self.progress: dict[str, Progress] = {}

    async def create_namespace(self, name: str, settings: NamespaceSettings) -> Namespace:
        """Raises InvalidRequest: the name.  Conflict: it exists.  EngineError."""
        epoch = await self._make(name, settings)
        return await self._namespaces.create(settings, epoch)

    async def check_model(self) -> None:
        """Raises ConfigurationError: the embedder answers under the name of a namespace's model, and is another one."""
        for namespace in await self._namespaces.all():
            for epoch in filter(None, (namespace.epoch, namespace.building)):
                if epoch.space == self._space and epoch.space.drifted(self._space):
                    raise ConfigurationError(
                        f"The provider has changed the model {self._space.model}: it does not give the vectors any more that "
                        f"namespace {namespace.name} was built with.",
                        next_step="Set embedder.revision to a new name, such as today's date, start, and run `ragline "
                        "reindex`; until it is done, searches use the keyword leg alone.",
                    )

    async def begin(self, name: str, *, instead_of: str = "") -> Epoch:
        """Register a building epoch with today's space and fields; a worker fills it. One of the same kind is resumed,
        unless it is the one labelled `instead_of`."""
        namespace = await self._namespaces.get(name)
        building = namespace.building
        same = building and (building.space, building.fields) == (self._space, namespace.settings.fields)
        if building and same and building.label != instead_of:
            return building
        epoch = await self._make(name, namespace.settings)
        await self._namespaces.start_building(epoch, drop_after_s=self._drop_after_s)
        self._snapshots.forget(name)
        return epoch

    async def drop_retired(self) -> None:
        """Remove the collections that no query can be reading any more, and the blobs of namespaces that are gone."""
        for epoch, alone in await self._namespaces.retired():
            await self._vectors.drop(epoch.vectors)
            await self._keywords.drop(epoch.keywords)
            if alone:
                await self._contents.delete_namespace(epoch.namespace, epoch.uid)
            await self._namespaces.forget_epoch(epoch)

    async def _make(self, name: str, settings: NamespaceSettings) -> Epoch:
        epoch = await self._namespaces.plan_epoch(name, self._space, settings.fields)
        await self._vectors.create(epoch.vectors, dim=epoch.space.dim, fields=epoch.fields)
        await self._keywords.create(epoch.keywords, fields=epoch.fields)
        return epoch

    async def fill(self, name: str) -> None:
        """Fill the building epoch of `name` and cut over. Raises EngineError; running it again resumes."""
        namespace = await self._namespaces.get(name)
        epoch = namespace.building
        if epoch is None:
            return
        counts = await self._documents.counts(name)
        progress = self.progress[name] = Progress(total=sum(n for s, n in counts.items() if s is not State.DELETED))
        async for part in self._copy_all(namespace, epoch):
            progress.done += len(part)
        await self._cut_over(name, epoch)
        del self.progress[name]

    async def refill(self, name: str) -> int:
        """Make the serving collections of `name` anew where they are gone, and fill them from the blobs. Returns how many
        documents they hold. For a folder nobody else works on: after a restore. Raises EngineError."""
        namespace = await self._namespaces.get(name)
        for epoch in filter(None, (namespace.epoch, namespace.building)):
            await self._vectors.create(epoch.vectors, dim=epoch.space.dim, fields=epoch.fields)
            await self._keywords.create(epoch.keywords, fields=epoch.fields)
        count = 0
        async for part in self._copy_all(namespace, namespace.epoch):
            count += sum(one.live is not None for one in part)
        return count

    async def _copy_all(self, namespace: Namespace, epoch: Epoch) -> AsyncIterator[list[Document]]:
        """Copy every document into `epoch`, and give back each part when it is done."""
        held = await self._vectors.contents(epoch.vectors)
        held_too = await self._keywords.contents(epoch.keywords)
        contents: dict[str, set[int]] = {}  # of each document, as a fill that was cut short has left it
        for id, number in (*held, *held_too):
            contents.setdefault(id, set()).add(number)
        after = ""
        while page := await self._documents.page(namespace.name, after=after, most=PAGE, state=None):
            after = page[-1].id
            for start in range(0, len(page), AT_ONCE):
                part = page[start : start + AT_ONCE]
                await asyncio.gather(
                    *(self._copy(namespace, epoch, one, held, held_too, contents.pop(one.id, set())) for one in part)
                )
                yield part
        for id, numbers in contents.items():
            await self._clear(epoch, id, max(numbers))

    async def _copy(
        self, namespace: Namespace, epoch: Epoch, document: Document,
        held: dict[tuple[str, int], int], held_too: dict[tuple[str, int], int], contents: set[int],
    ) -> None:  # fmt: skip
        """Write the live content of one document; look again, and repeat when it has changed meanwhile.

        What was written for a content that is replaced meanwhile may land after that one was swept, and so may what a
        fill that was killed has written: whoever wrote it removes it. `contents` are those that the stores held at first.
        """
        now: Document | None = document
        while now is not None and now.live is not None and now.live_blob is not None:
            key = (now.id, now.live)
            complete = now.chunks is not None and held.get(key, 0) == held_too.get(key, 0) == now.chunks
            clean = contents <= {now.live}
            if complete and clean and now.settled == now.revision and now is document:
                return
            before = now
            content = await self._contents.get(namespace, before, now.live_blob, now.live)
            if content is None:
                now = await self._documents.look(before.id)
                if now is None or (now.live, now.live_blob) != (before.live, before.live_blob):
                    continue  # replaced or deleted, and swept, while we read: nothing is missing
                log.warning("chunks missing, parsed again", document=before.id)
                with suppress(NotFound):  # deleted at this very moment
                    await self._documents.retry(before.namespace, before.id)
                return
            vectors = await self._vectors_of(namespace, epoch, before, content)
            rows = records(before, content, key[1], before.title, epoch)
            await self._stores.write(epoch, rows, vectors, epoch.space)
            now = await self._documents.look(before.id)
            if now is not None and (now.live, now.revision) == (before.live, before.revision):
                if before is not document or not clean:
                    await self._clear(epoch, now.id, before.content)
                return
        await self._clear(epoch, document.id, max(contents | {document.content}))

    async def _clear(self, epoch: Epoch, id: str, newest: int) -> None:
        """Remove rows of contents up to `newest` that are not served; later ones are of a change still to be indexed."""
        now = await self._documents.look(id)
        below = {id: newest + 1 if now is None else now.content if now.live is None else now.live}
        await asyncio.gather(self._vectors.delete(epoch.vectors, below), self._keywords.delete(epoch.keywords, below))

    async def _vectors_of(self, namespace: Namespace, epoch: Epoch, document: Document, content: Content) -> Vectors:
        assert document.live is not None
        assert document.live_blob is not None
        found = await self._contents.vectors(
            namespace, document, document.live_blob, document.live, epoch.space, len(content.spans)
        )
        if found is not None:
            return found
        if epoch.space != self._space:
            raise EngineUnavailable(
                f"{document.uri} has no vectors of {epoch.space.id}, and the embedder is {self._space.id}.",
                next_step=f"Run `ragline reindex --namespace {namespace.name}`, or set the embedder back.",
                engine="embedder",
            )
        texts = [
            search_text(document.title, span.headings, content.text[span.start : span.end]) for span in content.spans
        ]
        return await self._ingest.embed_texts(texts)

    async def _cut_over(self, name: str, epoch: Epoch) -> None:
        """Both epochs have got every write since the building one was registered, so one look at the books is enough."""
        while missing := await self._missing(name, epoch):
            if all(document.settled == document.revision for document in missing):
                raise EngineUnavailable(
                    f"{len(missing)} documents of {name} are not whole in the new stores, {missing[0].id} first.",
                    next_step="The work is taken up again by itself; look at the log if this repeats.",
                    engine="reindex",
                )
            await asyncio.sleep(0.1)
        await self._namespaces.cut_over(epoch, drop_after_s=self._drop_after_s)
        self._snapshots.forget(name)
        log.info("cut over", namespace=name, epoch=epoch.label)

    async def _missing(self, name: str, epoch: Epoch) -> list[Document]:
        held, held_too = await self._vectors.contents(epoch.vectors), await self._keywords.contents(epoch.keywords)
        missing: list[Document] = []
        after = ""
        while page := await self._documents.page(name, after=after, most=PAGE, state=None):
            after = page[-1].id
            for document in page:
                if document.live is None or document.live != document.content:
                    continue
                key = (document.id, document.live)
                if not held.get(key, 0) == held_too.get(key, 0) == document.chunks:
                    missing.append(document)
        return missing
