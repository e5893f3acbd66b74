"""What syncs have brought: the sources of a namespace, their documents, and the deletion of what vanished from one."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from ragline.api.access import Writer
from ragline.api.models import Strict
from ragline.errors import NotFound
from ragline.registry.acceptance import fingerprint
from ragline.system import System

router = APIRouter(prefix="/v1/namespaces/{namespace}/sources", tags=["sources"])

MOST_IDS = 10_000
"""Documents in one request."""


class GoneBody(Strict):
    source: str
    documents: list[str] = Field(max_length=MOST_IDS, description="Ids of documents whose files have vanished.")


class VerifiedBody(Strict):
    source: str
    leave_out: list[str] = Field([], max_length=MOST_IDS, description="Ids of documents that could not be compared.")


@router.get("")
async def list_sources(namespace: str, request: Request, _: Writer) -> dict[str, Any]:
    system: System = request.app.state.system
    await system.namespaces.get(namespace)
    found = await system.sources.all(namespace)
    return {"sources": [{"source": name, "documents": count} for name, count in found.items()]}


@router.get("/documents")
async def list_synced(
    namespace: str, request: Request, _: Writer, source: str, cursor: str = "",
    limit: Annotated[int, Query(ge=1, le=MOST_IDS)] = 1000,
) -> dict[str, Any]:  # fmt: skip
    """What syncs of `source` have brought, by id; `next` is the cursor of the next page, or null.

    `current`: uploading the same bytes again would change nothing; false after a change of the namespace's chunk sizes.
    """
    system: System = request.app.state.system
    holder = await system.namespaces.get(namespace)
    found = await system.sources.page(namespace, source, after=cursor, most=limit + 1)
    documents = [
        {
            "id": one.id, "uri": one.uri, "version": one.version, "state": one.state, "reason": one.reason,
            "current": one.fingerprint == fingerprint(one.sha256, one.media_type, holder.settings),
        }
        for one in found[:limit]
    ]  # fmt: skip
    return {"documents": documents, "next": found[limit - 1].id if len(found) > limit else None}


@router.post("/delete")
async def delete_gone(namespace: str, body: GoneBody, request: Request, _: Writer) -> dict[str, Any]:
    """Delete documents whose files have vanished from the source; only those that a sync of it has brought."""
    system: System = request.app.state.system
    sequence, deleted = (await system.namespaces.get(namespace)).sequence, []
    for id in await system.sources.of(namespace, body.source, body.documents):
        with suppress(NotFound):  # somebody else deleted it
            sequence = (await system.documents.delete(namespace, id)).document.revision
            deleted.append(id)
    return {"deleted": deleted, "sequence": sequence}


@router.post("/verified")
async def verified(namespace: str, body: VerifiedBody, request: Request, _: Writer) -> dict[str, Any]:
    """A sync has compared every document of the source with its file: they count as fresh from now on."""
    system: System = request.app.state.system
    await system.namespaces.get(namespace)
    return {"verified": await system.sources.verified(namespace, body.source, leave_out=body.leave_out)}
