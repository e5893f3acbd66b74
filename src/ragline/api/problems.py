"""Errors as RFC 9457 problem details that say what to do next."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ragline.errors import InvalidRequest, Overloaded, RaglineError, Unauthenticated
from ragline.tracing import REQUEST_ID

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
FORM = "application/x-www-form-urlencoded"
"""What curl says of a body by itself."""


class Problem(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank#NotFound",
                    "title": "Not found",
                    "status": 404,
                    "detail": "Namespace 'hr' does not exist.",
                    "next_step": "Create it with PUT /v1/namespaces/NAME.",
                    "retryable": False,
                    "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                }
            ]
        }
    )

    type: str = Field(description="Names the kind of error; stable.")
    title: str
    status: int
    detail: str = Field(description="The thing and the reason.")
    next_step: str = Field(description="What to do about it.")
    retryable: bool = Field(description="Whether the same call may succeed later.")
    field: str | None = Field(None, description="The part of the request that is wrong.")
    request_id: str | None = Field(
        default_factory=lambda: REQUEST_ID.get() or None,
        description="As the header X-Request-Id, and every log line of it.",
    )


RESPONSES: dict[int | str, dict[str, object]] = {
    "4XX": {"model": Problem, "description": "The request cannot be served as it is.", "content": {MEDIA_TYPE: {}}},
    "5XX": {"model": Problem, "description": "An engine failed; see `retryable`.", "content": {MEDIA_TYPE: {}}},
}


def problem(error: RaglineError) -> JSONResponse:
    kind = type(error).__name__
    title = "".join(f" {c.lower()}" if c.isupper() and i else c for i, c in enumerate(kind))
    field = error.field if isinstance(error, InvalidRequest) else None
    body = Problem(
        type=f"about:blank#{kind}",
        title=title,
        status=error.status,
        detail=_escaped(error.message),
        next_step=_escaped(error.next_step),
        retryable=error.retryable,
        field=None if field is None else _escaped(field),
    )
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    elif error.status == 503:
        headers["Retry-After"] = "1"
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    content = body.model_dump(exclude_none=True)
    return JSONResponse(content, error.status, headers=headers, media_type=MEDIA_TYPE)


def _escaped(text: str) -> str:
    """Fit for UTF-8: what a client sent, and a message repeats, may hold half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""

    @app.exception_handler(RaglineError)
    async def ours(_: Request, error: RaglineError) -> JSONResponse:
        return problem(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        _, *place = first["loc"]  # the first says whether it was the body, the query or the path
        where = ".".join(str(part) for part in place if part not in ("one", "many"))
        step = "See /docs for the request's fields."
        if not where and request.headers.get("content-type", "").partition(";")[0] in ("", FORM):
            step = "Send JSON, with the header Content-Type: application/json. " + step
        if place and place[-1] == "groups":
            step = "Leave it out: what a caller may read comes from its API key."
        return problem(InvalidRequest(f"{where or 'body'}: {first['msg']}.", next_step=step, field=where or None))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, RaglineError):  # ours, in the clothes that FastAPI lets pass
            return problem(error.__cause__)
        body = Problem(
            type="about:blank",
            title=_escaped(str(error.detail)),
            status=error.status_code,
            detail=_escaped(str(error.detail)),
            next_step="See /docs for the routes.",
            retryable=False,
        )
        return JSONResponse(body.model_dump(exclude_none=True), error.status_code, error.headers, MEDIA_TYPE)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; that a client leaves is no defect

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        log.error("defect", path=request.url.path, exc_info=error)
        body = Problem(
            type="about:blank#Defect",
            title="Defect",
            status=500,
            detail="Ragline failed in a way it should not.",
            next_step="Report it with the log line of this moment.",
            retryable=False,
        )
        return JSONResponse(body.model_dump(exclude_none=True), 500, media_type=MEDIA_TYPE)
