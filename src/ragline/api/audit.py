"""The audit over HTTP: what `ragline doctor --deep` asks for."""

from __future__ import annotations

from fastapi import APIRouter, Request

from ragline.api.access import Admin, allow
from ragline.api.models import AuditBody, AuditOut, FindingOut
from ragline.findings import Finding, Remedy
from ragline.system import System

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.post("")
async def audit(request: Request, caller: Admin, body: AuditBody | None = None) -> AuditOut:
    """Compare registry, stores and blobs, while everything goes on; with `mend`, repair what is found.

    A key that is bound to namespaces has those compared; what belongs to no namespace is looked at for the others alone.
    """
    system: System = request.app.state.system
    body = body or AuditBody()
    for name in body.namespaces or ():
        allow(caller, "admin", name)
        await system.namespaces.get(name)
    names = caller.namespaces if body.namespaces is None else frozenset(body.namespaces)
    report = await system.audit.look(names)
    done: dict[Finding, str] = {}
    if body.mend:
        done = {one.finding: one.done for one in await system.mending.mend(report.findings)}
        if any(one.remedy is Remedy.REINDEX for one in report.findings):
            system.housekeeper.wake()
    findings = [
        FindingOut(
            kind=one.kind, namespace=one.namespace, document=one.document, uri=one.uri, place=one.place,
            detail=one.detail, remedy=one.remedy, next_step=one.next_step, mended=done.get(one) or None,
        )
        for one in report.findings
    ]  # fmt: skip
    return AuditOut(
        namespaces=report.namespaces, documents=report.documents, chunks=report.chunks, blobs=report.blobs,
        due=report.due, moving=report.moving, findings=findings,
    )  # fmt: skip
