"""The hot cache over HTTP: what it does, and how to make it forget."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ragline.api.access import Admin
from ragline.api.models import CacheCleared, CacheForgotten, CacheOut
from ragline.errors import EngineError
from ragline.system import System

router = APIRouter(prefix="/v1", tags=["cache"])


@router.get("/cache")
async def stats(request: Request, _: Admin) -> CacheOut:
    """Entries, and what became of the looks of this process since its start."""
    system: System = request.app.state.system
    tier, audit = system.hot_tier, system.cache_audit
    if tier is None:
        return CacheOut(cache=None, entries=None, left_out=False, requests={}, audits={})
    requests: dict[str, dict[str, int]] = {}
    for (kind, outcome), count in sorted(tier.counts.items()):
        requests.setdefault(kind, {})[outcome] = count
    entries: int | None = None
    if not tier.rests:
        try:
            entries = await tier.cache.size()
        except EngineError:
            entries = None
    audits: dict[str, int] = dict(audit.verdicts.items()) if audit else {}
    return CacheOut(cache=tier.cache.name, entries=entries, left_out=tier.rests, requests=requests, audits=audits)


@router.delete("/namespaces/{namespace}/cache")
async def clear(namespace: str, request: Request, _: Admin) -> CacheCleared:
    """Remove every entry of the namespace."""
    system: System = request.app.state.system
    found = await system.namespaces.get(namespace)
    if system.hot_tier is None:
        return CacheCleared(namespace=namespace, entries=0)
    await system.hot_tier.written()  # what is on its way goes too
    return CacheCleared(namespace=namespace, entries=await system.hot_tier.cache.clear(found.uid))


@router.delete("/namespaces/{namespace}/cache/documents/{document}")
async def forget(namespace: str, document: str, request: Request, _: Admin) -> CacheForgotten:
    """From now on no cached result shows this document as it was found before; every other entry is checked once more."""
    system: System = request.app.state.system
    found = await system.documents.forget_cached(namespace, document)
    system.snapshots.forget(namespace)
    now = await system.namespaces.get(namespace)
    return CacheForgotten(
        document=document, uri=found.uri, live=found.live, state=found.state, visible=now.visible, sequence=now.sequence
    )
