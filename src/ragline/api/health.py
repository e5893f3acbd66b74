"""Is the process alive, can it answer, and what does it measure?"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from ragline import metrics
from ragline.errors import EngineError
from ragline.protocols import ChunkLog
from ragline.system import System

router = APIRouter(tags=["health"])

STORES = {"vectors", "keywords"}

ASK_S = 0.5
"""Longest that an engine is asked how much waits in it: when one is silent, everything else is looked at most."""


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process is alive; says nothing of its engines."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """Whether it is to be sent requests, and what it goes on without. 503: while neither store answers. One store alone, or the
    registry, costs an answer a part; for that all processes would be taken out of service at once."""
    missing = await request.app.state.ready()
    ready = bool(STORES - {words.partition(":")[0] for words in missing})
    return JSONResponse({"ready": ready, "missing": missing}, 200 if ready else 503)


@router.get("/metrics")
async def exposition(request: Request) -> Response:
    """Prometheus text format."""
    system: System | None = getattr(request.app.state, "system", None)
    if system is not None:
        metrics.documents_waiting.set(await _waiting(system))
        if system.log is not None:
            await _tell_lag(system.log)
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_PLAIN_0_0_4)


async def _waiting(system: System) -> float:
    """Not a number while the registry does not answer: the rest must be told all the same, and an old number would lie."""
    try:
        async with asyncio.timeout(ASK_S):
            return await system.documents.waiting()
    except (EngineError, TimeoutError):
        return math.nan


async def _tell_lag(log: ChunkLog) -> None:
    """No lag is told while the log does not answer: an old one would look like work that stands still."""
    metrics.consumer_lag.clear()
    with suppress(EngineError, TimeoutError):
        async with asyncio.timeout(ASK_S):
            lag = await log.lag()
        for (topic, group), messages in lag.items():
            metrics.consumer_lag.labels(topic, group).set(messages)
