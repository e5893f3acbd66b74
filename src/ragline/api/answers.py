"""Answers: JSON, or server-sent events while they come about."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from ragline.answer import Event, Piece, Restarted
from ragline.api.access import Reader, allow
from ragline.api.models import AnswerBody, AnswerOut
from ragline.api.problems import problem
from ragline.errors import RaglineError
from ragline.system import System
from ragline.tracing import REQUEST_ID
from ragline.types import Answer, Retrieved, SearchRequest
from ragline.wire import answer_out, passage_out

router = APIRouter(prefix="/v1", tags=["answers"])
log = structlog.get_logger()

STREAM = {200: {"content": {"text/event-stream": {}}, "description": "The answer, or its events with `stream`."}}


@router.post("/answers", response_model=AnswerOut, responses=STREAM)  # type: ignore[arg-type]
async def answers(body: AnswerBody, request: Request, caller: Reader) -> Response:
    """Answer from the documents, with citations.

    Events of a stream: `passages`; `token` with text to append; `restarted` when what was shown does not count any
    more; `done` with the whole answer; `error` with a problem, last.
    """
    allow(caller, "read", body.namespace)
    system: System = request.app.state.system
    wanted = SearchRequest(
        query=body.query, namespace=body.namespace, groups=caller.groups, top_k=body.top_k, filters=body.filters,
        min_sequence=body.min_sequence,
    )  # fmt: skip
    if not body.stream:
        return JSONResponse(answer_out(await system.answers.answer(wanted)))
    events = system.answers.stream(wanted)
    first = await anext(events)  # what is wrong with the request is still an ordinary error response
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(first, events), media_type="text/event-stream", headers=headers)


async def _stream(first: Event, events: AsyncGenerator[Event, None]) -> AsyncGenerator[str, None]:
    yield _event(first)
    try:
        async with aclosing(events):
            async for event in events:
                yield _event(event)
    except RaglineError as error:
        yield _sse("error", json.loads(bytes(problem(error).body)))
    except Exception as error:  # the status is sent: the stream must say it
        log.error("defect in a stream", exc_info=error)
        defect = {"title": "Defect", "status": 500, "detail": "The answer broke off.", "retryable": True}
        yield _sse("error", defect | {"request_id": REQUEST_ID.get()})


def _event(event: Event) -> str:
    match event:
        case Retrieved():
            passages = [passage_out(passage) for passage in event.passages]
            about = {"degraded": list(event.degraded), "epoch": event.epoch, "sequence": event.sequence}
            return _sse("passages", {"passages": passages, **about, "cached": event.cached})
        case Piece():
            return _sse("token", {"text": event.text})
        case Restarted():
            return _sse("restarted", {"reason": event.reason})
        case Answer():
            return _sse("done", answer_out(event))


def _sse(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
