"""Where a queue that pushes (Google Cloud Tasks) hands over its wakes. A token of Google's opens it, and no API key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ragline.errors import EngineUnavailable
from ragline.protocols import PushedJobQueue
from ragline.types import QueueName

router = APIRouter(include_in_schema=False)


@router.post("/v1/internal/queues/{queue}/wakes", status_code=204)
async def wake(queue: QueueName, request: Request) -> Response:
    """Answered once the wake is settled: 204, and Google forgets the task; 503, and it calls again."""
    jobs: PushedJobQueue = request.app.state.pushed
    _, _, token = request.headers.get("authorization", "").partition(" ")
    text = (await request.body()).decode("utf-8", "replace")
    if not await jobs.deliver(queue, text, token=token.strip()):
        raise EngineUnavailable(
            f"No worker of {queue} was free.", next_step="Cloud Tasks calls again; add workers if it stays so.",
            engine="queue:cloudtasks",
        )  # fmt: skip
    return Response(status_code=204)
