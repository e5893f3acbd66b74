"""Re-driving what is stale: what Alertmanager calls while `RaglinePassagesStale` fires."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from fastapi import APIRouter, Request

from ragline.api.access import Admin
from ragline.api.models import RedrivenOut, RedriveOut
from ragline.system import System

router = APIRouter(prefix="/v1", tags=["documents"])


@router.post("/redrive")
async def redrive_all(request: Request, caller: Admin) -> RedriveOut:
    """The same for every namespace that the key may change. A body is not looked at."""
    return await _redrive(request.app.state.system, caller.namespaces)


@router.post("/namespaces/{namespace}/redrive")
async def redrive(namespace: str, request: Request, _: Admin) -> RedriveOut:
    """Drive exactly the stale documents again: at once what waits, anew what has failed. Repeating the call is harmless: each
    document rests for `ingest.redrive_cooldown_s`, and is tried three times. A body, such as Alertmanager's, is not looked at."""
    system: System = request.app.state.system
    await system.namespaces.get(namespace)
    return await _redrive(system, {namespace})


async def _redrive(system: System, among: Collection[str] | None) -> RedriveOut:
    found = await system.redrive.run(among)
    documents = [
        RedrivenOut(
            id=one.stale.document, namespace=one.stale.namespace, uri=one.stale.uri, why=one.stale.why,
            since=one.stale.since, done=one.done,
        )
        for one in found
    ]  # fmt: skip
    return RedriveOut(counts=Counter(one.done for one in found), documents=documents)
