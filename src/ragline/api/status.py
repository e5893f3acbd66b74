"""What this process knows of the engines it asks, and what waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fastapi import APIRouter, Request

from ragline import __version__
from ragline.api.access import Admin
from ragline.api.health import ASK_S
from ragline.api.models import EngineOut, StatusOut
from ragline.errors import EngineError
from ragline.system import System
from ragline.types import QUEUES

router = APIRouter(prefix="/v1", tags=["health"])


@router.get("/status")
async def status(request: Request, _: Admin) -> StatusOut:
    """Every engine that queries depend on, as this process has seen it; what is left out, and why."""
    system: System = request.app.state.system
    engines = [
        EngineOut(
            name=one.name, left_out=one.left_out, since=one.since, p95_ms=one.p95_ms, deadline_ms=one.deadline_ms,
            last_error=one.last_error or None, last_error_at=one.last_error_at,
        )
        for one in (ask() for ask in system.standings)
    ]  # fmt: skip
    waiting: int | None = None
    with suppress(EngineError, TimeoutError):  # it is shown as unknown
        async with asyncio.timeout(ASK_S):
            waiting = await system.documents.waiting()
    queues: dict[str, int | None] = dict.fromkeys(QUEUES)
    with suppress(EngineError, TimeoutError):
        async with asyncio.timeout(ASK_S):
            queues = {str(name): length for name, length in (await system.jobs.store.lengths()).items()}
    return StatusOut(version=__version__, engines=engines, documents_waiting=waiting, queues=queues)
