"""Deliveries of webhooks: what became of each, and sending one again."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request

from ragline.api.access import Reader
from ragline.api.models import DeliveriesOut, DeliveryOut
from ragline.jobstores.refusals import unknown_delivery
from ragline.system import System
from ragline.types import Caller, DeliveryState, WebhookDelivery

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])

MOST_ID_CHARS = 64


@router.get("/deliveries", response_model=DeliveriesOut)
async def list_deliveries(
    request: Request, caller: Reader, state: DeliveryState | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> dict[str, Any]:  # fmt: skip
    """Your deliveries, newest first; everybody's for an admin whose key is bound to no namespace, who sees of others' URLs
    the host alone: their paths are often secrets."""
    system: System = request.app.state.system
    found = await system.jobs.store.deliveries(principal=_whose(caller), state=state, most=limit)
    return {"deliveries": [_out(delivery, caller) for delivery in found]}


@router.post("/deliveries/{id}/replay", status_code=202, response_model=DeliveryOut)
async def replay(id: str, request: Request, caller: Reader) -> dict[str, Any]:
    """Send it again at once, whatever became of it: the same id, the same body, all tries anew."""
    system: System = request.app.state.system
    if len(id) > MOST_ID_CHARS or not id.isascii() or not id.isprintable():
        raise unknown_delivery(id)
    return _out(await system.jobs.store.replay_delivery(id, principal=_whose(caller)), caller)


def _whose(caller: Caller) -> str | None:
    """None: everybody's."""
    return None if caller.role == "admin" and caller.namespaces is None else caller.principal


def _out(delivery: WebhookDelivery, caller: Caller) -> dict[str, Any]:
    """As `DeliveryOut`."""
    url = delivery.url
    if delivery.principal != caller.principal:
        url = f"{urlsplit(url).scheme}://{delivery.host}/…"
    return {
        "id": delivery.id, "job_id": delivery.job, "principal": delivery.principal, "url": url, "state": delivery.state,
        "attempts": delivery.attempt, "created_at": delivery.created_at,
        "due_at": delivery.due_at if delivery.state == "waiting" else None, "status": delivery.status,
        "error": delivery.error or None,
    }  # fmt: skip
