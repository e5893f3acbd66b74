"""Search: passages for a query, or for a batch of them. Answers: see `answers`.

This is the hot path: what stands around the search itself is written to cost little.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError
from pydantic_core import to_json

from ragline.api.access import ANYBODY, Reader, Searcher, allow
from ragline.api.models import MOST_SEQUENCE, BatchOut, SearchBody, SearchOut, json_object
from ragline.cold_tier import Published
from ragline.errors import InvalidRequest
from ragline.system import System
from ragline.types import Caller, Distinct, LegName, Retrieved, SearchRequest
from ragline.wire import retrieved_out

router = APIRouter(prefix="/v1", tags=["search"])

MOST_IN_BATCH = 64
"""Queries in one request: more than a model call takes, few enough to stay inside the deadline."""


AT_ONCE = 8
"""Queries of a batch in flight: all at once, the last would wait for the others' embeddings beyond its legs' grace."""

One = Annotated[SearchBody, Tag("one")]
Many = Annotated[list[SearchBody], Tag("many")]


def _how_many(body: object) -> str:
    return "many" if isinstance(body, list) else "one"


Asked = Annotated[One | Many, Discriminator(_how_many)]
ASKED: TypeAdapter[SearchBody | list[SearchBody]] = TypeAdapter(Asked)


class _DirectRoute(APIRoute):
    """A good request goes straight to the endpoint; any other takes FastAPI's way, which finds the words for what is wrong.

    FastAPI's way costs as much of the event loop as half of the search itself.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        usual = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return await usual(request)
            try:
                body = ASKED.validate_json(await request.body())
            except ValidationError:
                return await usual(request)
            return cast(Response, await self.endpoint(request, await request.app.state.access.caller(request), body))

        return handle


async def search(request: Request, caller: Reader, body: Annotated[Asked, Body()]) -> Response:
    """Search once, or for each element of a list: `{results: […]}` in the same order."""
    system: System = request.app.state.system
    if isinstance(body, SearchBody):
        return _json(retrieved_out(await system.search.search(_request(body, caller))))
    if not 1 <= len(body) <= MOST_IN_BATCH:
        raise InvalidRequest(
            f"A batch of {len(body)} queries.", next_step=f"Send 1 to {MOST_IN_BATCH} in a request.", field="body"
        )
    places = asyncio.Semaphore(AT_ONCE)

    async def one_of(one: SearchBody) -> Retrieved:
        async with places:
            return await system.search.search(_request(one, caller))

    results = await asyncio.gather(*map(one_of, body))
    return _json({"results": [retrieved_out(result) for result in results]})


router.add_api_route(
    "/search", search, methods=["POST"], response_model=SearchOut | BatchOut, route_class_override=_DirectRoute
)


@router.get("/search", response_model=SearchOut)
async def search_by_get(
    request: Request, caller: Searcher, q: str, namespace: str = "default", top_k: int = 10,
    filters: Annotated[str, Query(description="JSON object, as in POST")] = "{}",
    legs: Annotated[list[LegName], Query()] = ["keyword", "dense"],  # noqa: B006 (FastAPI copies it)
    distinct: Distinct = "chunk", min_sequence: Annotated[int | None, Query(ge=0, le=MOST_SEQUENCE)] = None,
) -> Response:  # fmt: skip
    """The same as POST, for a browser, a cache or a shell. A namespace that is `public` needs no key for it."""
    body = SearchBody(
        query=q, namespace=namespace, top_k=top_k, filters=json_object(filters, "filters"), legs=legs,
        distinct=distinct, min_sequence=min_sequence,
    )  # fmt: skip
    system: System = request.app.state.system
    if caller.principal != ANYBODY or "authorization" in request.headers:
        return _json(retrieved_out(await system.search.search(_request(body, caller))))
    published = await system.cold_tier.answer(_request(body, caller))
    if not published.stored:
        return _json(retrieved_out(published.retrieved), published.headers)
    return _stored(request, published, by_origin=bool(system.settings.http.cors_origins))


def _stored(request: Request, published: Published, *, by_origin: bool) -> Response:
    """An answer that a shared cache may keep: with what it depends on, and a name for what is in it."""
    out = retrieved_out(published.retrieved)
    # Weak: two searches that found the same differ in how long they took, and in how far the namespace is settled.
    named = {name: value for name, value in out.items() if name in ("passages", "epoch")}
    tag = f'W/"{hashlib.blake2b(to_json(named), digest_size=16).hexdigest()}"'
    vary = "Authorization, Origin" if by_origin else "Authorization"
    headers = {**published.headers, "ETag": tag, "Vary": vary}
    if matches(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return _json(out, headers)


def matches(header: str, tag: str) -> bool:
    """Whether an If-None-Match names `tag`, compared weakly (RFC 9110, 13.1.2)."""
    named = {one.strip().removeprefix("W/") for one in header.split(",")}
    return "*" in named or tag.removeprefix("W/") in named


def _json(value: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), media_type="application/json", headers=headers)


def _request(body: SearchBody, caller: Caller) -> SearchRequest:
    allow(caller, "read", body.namespace)
    return SearchRequest(
        query=body.query, namespace=body.namespace, groups=caller.groups, top_k=body.top_k, filters=body.filters,
        legs=tuple(body.legs), distinct=body.distinct, min_sequence=body.min_sequence,
    )  # fmt: skip
