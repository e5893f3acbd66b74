"""API keys: make, list, rotate, revoke."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from ragline.api.access import Admin
from ragline.api.models import KeyBody
from ragline.registry.keys import Key
from ragline.system import System

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201)
async def create_key(body: KeyBody, request: Request, _: Admin) -> dict[str, Any]:
    """The token is shown this once."""
    system: System = request.app.state.system
    expires_at = None if body.expires_in_s is None else system.clock.now() + body.expires_in_s
    namespaces = None if body.namespaces is None else frozenset(body.namespaces)
    key, token = await system.keys.create(
        body.principal, body.role, namespaces=namespaces, groups=frozenset(body.groups), expires_at=expires_at
    )
    request.app.state.access.forget()
    return {**_out(key), "token": token}


@router.get("")
async def list_keys(request: Request, _: Admin) -> dict[str, Any]:
    system: System = request.app.state.system
    return {"keys": [_out(key) for key in await system.keys.all()]}


@router.post("/{key}/rotate")
async def rotate_key(key: str, request: Request, _: Admin, grace_s: float = 86_400.0) -> dict[str, Any]:
    """A new token; the old one is good for `grace_s` more."""
    system: System = request.app.state.system
    token = await system.keys.rotate(key, grace_s=grace_s)
    request.app.state.access.forget()
    return {"id": key, "token": token}


@router.delete("/{key}")
async def revoke_key(key: str, request: Request, _: Admin) -> dict[str, Any]:
    system: System = request.app.state.system
    await system.keys.revoke(key)
    request.app.state.access.forget()
    return {"revoked": key}


def _out(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "principal": key.principal,
        "role": key.role,
        "namespaces": None if key.namespaces is None else sorted(key.namespaces),
        "groups": sorted(key.groups),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
