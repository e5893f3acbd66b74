"""A system whose workers work when told."""

from __future__ import annotations

from ragline.system import System
from ragline.types import Document, Groups, SearchRequest, Upload

NOBODY: Groups = frozenset()


class House:
    """A system whose workers only work when told, one document and one step at a time."""

    def __init__(self, system: System) -> None:
        self.system = system

    async def accept(self, uri: str, text: str | bytes, *, groups: Groups = NOBODY) -> Document:
        namespace = await self.system.namespaces.get("default")
        data = text if isinstance(text, bytes) else text.encode()
        return (await self.system.ingest.accept(namespace, Upload(uri, data, groups=groups))).document

    async def claim(self) -> list[Document]:
        return await self.system.claims.claim(most=100, lease_s=3600.0)

    async def work(self) -> None:
        """Until nothing is due; a document that is refused raises its reason."""
        while claimed := await self.claim():
            for document in claimed:
                await self.system.ingest.process(document)

    async def work_as_workers_do(self) -> None:
        """Until nothing is due; a document that is refused ends failed."""
        while claimed := await self.claim():
            for document in claimed:
                await self.system.ingest_worker._one(document)

    async def found(self, query: str, *, groups: Groups = NOBODY) -> list[str]:
        request = SearchRequest(query=query, namespace="default", groups=groups, top_k=50)
        return [passage.hit.chunk.text for passage in (await self.system.search.search(request)).passages]

    async def held(self) -> dict[tuple[str, int], int]:
        """The books of both stores, which must agree."""
        epoch = (await self.system.namespaces.get("default")).epoch
        vectors = await self.system.vectors.contents(epoch.vectors)
        assert vectors == await self.system.keywords.contents(epoch.keywords)
        return vectors

    async def expire_leases(self) -> None:
        """As if the time had passed for which workers, also those that lost their claim, may be writing."""
        expire = "UPDATE documents SET lease_until = 0, late_until = 0"
        await self.system.database.write(lambda c: c.exec_driver_sql(expire).rowcount)

    async def look(self, document: Document) -> Document:
        found = await self.system.documents.look(document.id)
        assert found is not None
        return found
