"""The backup of everything, as one stream."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from ragline.api.access import Admin
from ragline.backup import written
from ragline.errors import Forbidden
from ragline.system import System

router = APIRouter(prefix="/v1/backup", tags=["backup"])


@router.get("", response_class=StreamingResponse)
async def backup(request: Request, caller: Admin) -> StreamingResponse:
    """A tar file with all namespaces, keys (as hashes) and documents, as of now; reading and writing go on meanwhile.

    For admins of everything only. A stream that ends without `end.json` is no backup: `ragline restore` refuses it.
    """
    if caller.namespaces is not None:
        raise Forbidden(
            f"The key of {caller.principal} is for some namespaces; a backup holds them all.",
            next_step="Use an admin's key that is bound to none.",
        )
    system: System = request.app.state.system
    headers = {"Content-Disposition": 'attachment; filename="ragline-backup.tar"', "Cache-Control": "no-store"}
    stream = written(system.database, system.blobs, system.clock)
    return StreamingResponse(stream, media_type="application/x-tar", headers=headers)
