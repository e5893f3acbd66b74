"""Namespaces: create, show, settings, re-index, delete."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from ragline.api.access import Admin, Reader
from ragline.api.models import NamespaceBody
from ragline.errors import Conflict, InvalidRequest, NotFound
from ragline.system import System
from ragline.types import Fusion, Namespace, NamespaceSettings, Space

router = APIRouter(prefix="/v1/namespaces", tags=["namespaces"])


class ReindexBody(BaseModel):
    reparse: bool = False


@router.get("")
async def list_namespaces(request: Request, caller: Reader) -> dict[str, Any]:
    system: System = request.app.state.system
    allowed = caller.namespaces
    found = [n for n in await system.namespaces.all() if allowed is None or n.name in allowed]
    return {"namespaces": [_brief(namespace) for namespace in found]}


@router.put("/{namespace}")
async def create_namespace(
    namespace: str, request: Request, response: Response, _: Admin, body: NamespaceBody | None = None
) -> dict[str, Any]:
    """Create it; when it exists, change what the body names. Repeating the call changes nothing."""
    system: System = request.app.state.system
    body = body or NamespaceBody()
    try:
        found = await system.namespaces.get(namespace)
    except NotFound:
        try:
            found = await system.epochs.create_namespace(namespace, _settings(NamespaceSettings(), body, system))
        except Conflict:  # somebody else created it since we looked
            found = await system.namespaces.get(namespace)
        else:
            response.status_code = 201
            return _brief(found)
    return await _configure(system, found, body)


@router.get("/{namespace}")
async def show_namespace(namespace: str, request: Request, _: Reader) -> dict[str, Any]:
    """Settings, counters, documents by state, and how far a re-index has come."""
    system: System = request.app.state.system
    found = await system.namespaces.get(namespace)
    counts = await system.documents.counts(namespace)
    progress = system.epochs.progress.get(namespace)
    building = None
    if found.building:
        building = {"epoch": found.building.label, "done": progress.done if progress else 0}
        building["total"] = progress.total if progress else None
    return {
        **_brief(found),
        "documents": {state.value: count for state, count in counts.items()},
        "chunks": await system.documents.chunks(namespace),
        "building": building,
        "languages": await system.documents.languages(namespace) if found.foreign else {},
        "embedder_languages": sorted(system.languages) if system.languages is not None else None,
        "candidates": found.settings.candidates or system.settings.query.candidates,
        "space": _space(found.epoch.space),
        "serving_fields": dict(found.epoch.fields),
    }


def _space(space: Space) -> dict[str, Any]:
    """The probe is for the start alone."""
    return {name: value for name, value in asdict(space).items() if name != "probe"} | {"id": space.id}


@router.patch("/{namespace}")
async def change_namespace(namespace: str, body: NamespaceBody, request: Request, _: Admin) -> dict[str, Any]:
    system: System = request.app.state.system
    return await _configure(system, await system.namespaces.get(namespace), body)


@router.delete("/{namespace}")
async def delete_namespace(namespace: str, request: Request, _: Admin) -> dict[str, Any]:
    """Forget it with all its documents, at once."""
    system: System = request.app.state.system
    await system.namespaces.delete(namespace)
    system.snapshots.forget(namespace)
    system.housekeeper.wake()
    return {"deleted": namespace}


@router.post("/{namespace}/reindex", status_code=202)
async def reindex(namespace: str, request: Request, _: Admin, body: ReindexBody | None = None) -> dict[str, Any]:
    """Build new stores beside the serving ones and cut over; with `reparse`, parse and chunk every document again."""
    system: System = request.app.state.system
    if body and body.reparse:
        after, count = "", 0
        while page := await system.documents.page(namespace, after=after, most=500, state=None):
            after = page[-1].id
            for document in page:
                with suppress(NotFound):  # deleted since the page was read
                    await system.documents.retry(namespace, document.id)
                    count += 1
        return {"reparsing": count, "sequence": (await system.namespaces.get(namespace)).sequence}
    epoch = await system.epochs.begin(namespace)
    system.housekeeper.wake()
    return {"building": epoch.label}


async def _configure(system: System, namespace: Namespace, body: NamespaceBody) -> dict[str, Any]:
    settings = _settings(namespace.settings, body, system)
    if settings != namespace.settings:
        namespace = await system.namespaces.configure(namespace.name, settings)
        system.snapshots.forget(namespace.name)
    return _brief(namespace)


def _settings(old: NamespaceSettings, body: NamespaceBody, system: System) -> NamespaceSettings:
    new = old
    if body.fields is not None:
        new = replace(new, fields=body.fields)
    if body.fusion is not None:
        if not any(weight > 0 for weight in body.fusion.weights.values()) or min(body.fusion.weights.values()) < 0:
            raise InvalidRequest(
                "fusion.weights must not be negative, and one must be above 0.",
                next_step="Leave it out for 1.0 each.",
                field="fusion.weights",
            )
        weights = {"keyword": 0.0, "dense": 0.0, **body.fusion.weights}
        new = replace(new, fusion=Fusion(body.fusion.method, weights))
    if body.candidates is not None:
        new = replace(new, candidates=body.candidates)
    if body.chunk_tokens is not None:
        new = replace(new, chunk_tokens=body.chunk_tokens)
    if body.overlap_tokens is not None:
        new = replace(new, overlap_tokens=body.overlap_tokens)
    if body.public is not None:
        new = replace(new, public=body.public)
    if body.verify_within_s is not None:
        new = replace(new, verify_within_s=body.verify_within_s or None)
    longest = system.embedder.space.max_tokens
    if new.chunk_tokens > longest or new.overlap_tokens * 2 > new.chunk_tokens:
        raise InvalidRequest(
            f"chunk_tokens {new.chunk_tokens} with overlap_tokens {new.overlap_tokens} does not fit.",
            next_step=f"The embedder reads {longest} tokens, and the overlap may be half a chunk at most.",
            field="chunk_tokens",
        )
    return new


def _brief(namespace: Namespace) -> dict[str, Any]:
    return {
        "name": namespace.name,
        "sequence": namespace.sequence,
        "visible": namespace.visible,
        "epoch": namespace.epoch.label,
        "settings": asdict(namespace.settings),
        "created_at": namespace.created_at,
    }
