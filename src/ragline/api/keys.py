"""API keys: make, list, rotate, revoke.

An admin whose own key is bound to namespaces administers only the keys that are bound to some of them: it neither sees
the others nor hands out more than it holds.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from ragline.api.access import Admin
from ragline.api.models import KeyBody
from ragline.errors import Forbidden
from ragline.registry.keys import Key
from ragline.system import System
from ragline.types import Caller, Groups

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", status_code=201)
async def create_key(body: KeyBody, request: Request, caller: Admin) -> dict[str, Any]:
    """The token is shown this once.

    A caller whose own key is bound to namespaces must name some of them, and may give only groups that it has itself.
    """
    system: System = request.app.state.system
    expires_at = None if body.expires_in_s is None else system.clock.now() + body.expires_in_s
    namespaces = None if body.namespaces is None else frozenset(body.namespaces)
    groups = frozenset(body.groups)
    _may_hand_out(caller, namespaces, groups)
    key, token = await system.keys.create(
        body.principal, body.role, namespaces=namespaces, groups=groups, expires_at=expires_at
    )
    request.app.state.access.forget()
    return {**_out(key), "token": token}


@router.get("")
async def list_keys(request: Request, caller: Admin) -> dict[str, Any]:
    """Those that the caller may administer."""
    system: System = request.app.state.system
    return {"keys": [_out(key) for key in await system.keys.all() if _covers(caller, key.namespaces)]}


@router.post("/{key}/rotate")
async def rotate_key(
    key: str, request: Request, caller: Admin,
    grace_s: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 86_400.0,
) -> dict[str, Any]:  # fmt: skip
    """A new token; the old one is good for `grace_s` more. It is handed out as by a creation, so the same rule holds."""
    system: System = request.app.state.system
    found = await system.keys.get(key)
    _may_hand_out(caller, found.namespaces, found.groups)
    token = await system.keys.rotate(key, grace_s=grace_s)
    request.app.state.access.forget()
    return {"id": key, "token": token}


@router.delete("/{key}")
async def revoke_key(key: str, request: Request, caller: Admin) -> dict[str, Any]:
    system: System = request.app.state.system
    _may_administer(caller, (await system.keys.get(key)).namespaces)
    await system.keys.revoke(key)
    request.app.state.access.forget()
    return {"revoked": key}


def _covers(caller: Caller, namespaces: frozenset[str] | None) -> bool:
    """Is a key for `namespaces` (None = all) the caller's to administer?"""
    return caller.namespaces is None or (namespaces is not None and namespaces <= caller.namespaces)


def _may_administer(caller: Caller, namespaces: frozenset[str] | None) -> None:
    """Raises Forbidden."""
    if caller.namespaces is not None and not _covers(caller, namespaces):
        own = ", ".join(sorted(caller.namespaces))
        raise Forbidden(
            f"The key of {caller.principal} administers only keys bound to namespaces of its own.",
            next_step=f"Name some of these: {own}; or use a key that is bound to none.",
        )


def _may_hand_out(caller: Caller, namespaces: frozenset[str] | None, groups: Groups) -> None:
    """Raises Forbidden: more than the caller holds."""
    _may_administer(caller, namespaces)
    if caller.namespaces is not None and not groups <= caller.groups:
        raise Forbidden(
            f"The key of {caller.principal} may give only groups that it has itself.",
            next_step="Leave the other groups out, or use a key that is bound to no namespace.",
        )


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
