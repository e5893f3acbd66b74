"""An LLM and a reranker that are played: on a socket, in the form of the real ones, and failing when told.

The LLM quotes the first sentence of the first passage and cites it, so that its answers hold. It speaks OpenAI's chat
completions, as a stream or whole; the reranker TEI's `/rerank`, by the words that a text shares with the query.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

FIRST_S, BETWEEN_S = 0.05, 0.005
"""Until the first token, and between two."""

_PASSAGE = re.compile(r"<passage 1 [^>]*>\n(.*?)\n</passage 1 ", re.DOTALL)


class Models:
    """`fail`: from then on ``limit``, ``hang`` (in the middle of an answer), ``refuse`` or ``slow``; empty: not at all."""

    def __init__(self) -> None:
        self.url = ""
        self._kind = ""
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/rerank", self._rerank, methods=["POST"]),
            ]
        )

    def fail(self, kind: str) -> None:
        self._kind = kind

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if self._kind == "limit":
            return JSONResponse({"error": {"message": "Too many."}}, 429, headers={"Retry-After": "5"})
        if self._kind == "refuse":
            return JSONResponse({"error": {"message": "Overloaded."}}, 503)
        words = _words(body["messages"][-1]["content"])[: body.get("max_tokens") or None]
        if not body.get("stream"):
            await self._wait(FIRST_S)
            message = {"role": "assistant", "content": "".join(words)}
            return JSONResponse({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        return StreamingResponse(self._stream(words), media_type="text/event-stream")

    async def _stream(self, words: list[str]) -> AsyncIterator[str]:
        await self._wait(FIRST_S)
        for n, word in enumerate(words):
            while self._kind == "hang" and n >= len(words) // 2:  # noqa: ASYNC110 (until somebody sets another kind)
                await asyncio.sleep(BETWEEN_S)
            delta = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            yield f"data: {json.dumps({'choices': [delta]})}\n\n"
            await self._wait(BETWEEN_S)
        usage = {"prompt_tokens": 100, "completion_tokens": len(words)}
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
        yield f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n"

    async def _wait(self, for_s: float) -> None:
        await asyncio.sleep(40 * for_s if self._kind == "slow" else for_s)

    async def _rerank(self, request: Request) -> Response:
        try:
            body = await request.json()
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        asked = set(body["query"].lower().split())
        scores = [len(asked & set(text.lower().split())) / (1 + len(asked)) for text in body["texts"]]
        return JSONResponse([{"index": n, "score": score} for n, score in enumerate(scores)])


def _words(prompt: str) -> list[str]:
    found = _PASSAGE.search(prompt)
    sentence = found[1].split(". ")[1 if ". " in found[1] else 0].rstrip(".") if found else "Yes"
    return [*(f"{word} " for word in f"{sentence} [1].".split())]


@asynccontextmanager
async def models() -> AsyncIterator[Models]:
    """On a free port of this machine, until the block ends."""
    import uvicorn

    played = Models()
    config = uvicorn.Config(played.app, host="127.0.0.1", port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())  # without its own handling of signals
    try:
        while not server.started:
            if serving.done():
                await serving
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        played.url = f"http://127.0.0.1:{port}"
        yield played
    finally:
        played.fail("")
        server.should_exit = True
        await serving
