"""A language model that is played: OpenAI's chat completions, as slow, as limited and as broken as is asked for.

    python -m ragline.chaos.llm --port 8090
    RAGLINE_GENERATORS='[{"url": "http://127.0.0.1:8090/v1", "model": "played"}]' ragline up
    curl -X PATCH localhost:8090/control -d '{"limited_share": 1, "retry_after_s": 2}'

Its answer is a sentence of the first passage, word for word, with [1] behind it: the one that has most words of the question. So
the answer holds to what it cites, and passes the check that every answer goes through.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

from aiohttp import web

from ragline.prompting import REFUSAL
from ragline.sentences import sentences
from ragline.words import content_words

MODEL = "played"

_PASSAGE = re.compile(r"<passage 1 (?P<fence>\w+)>\n(?P<body>.*?)\n</passage 1 (?P=fence)>", re.DOTALL)
_QUESTION = re.compile(r"Question: (.*)\Z", re.DOTALL)
_TOKEN = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Units: `first_token_s` from the request to the first token; `tokens_per_s` after it, 0 for all at once.

    limited_share:  of the requests, answered 429 with `retry_after_s`.
    failing_share:  of the others, answered 500.
    hang_after:     tokens after which nothing comes any more, and the connection stays; None: never.
    Raises:         ValueError: a number is out of its range.
    """

    first_token_s: float = 0.0
    tokens_per_s: float = 0.0
    limited_share: float = 0.0
    retry_after_s: float = 1.0
    failing_share: float = 0.0
    hang_after: int | None = None

    def __post_init__(self) -> None:
        numbers = [value for value in asdict(self).values() if value is not None]
        if not all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers):
            raise ValueError("every number must be 0 or more")
        if max(self.limited_share, self.failing_share) > 1:
            raise ValueError("a share is at most 1")


class Llm:
    """`behaviour` holds from the next request on, `hang_after` from the next token. `seen` counts requests by what became of
    them: answered, limited, failed, hung, left (by the client)."""

    def __init__(self, behaviour: Behaviour | None = None, *, seed: int = 0) -> None:
        self.behaviour = behaviour or Behaviour()
        self.seen = dict.fromkeys(("answered", "limited", "failed", "hung", "left"), 0)
        self.url = ""
        """Base of the API, with /v1; set by `serving`."""
        self._dice = Random(f"llm:{seed}")

    @asynccontextmanager
    async def serving(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Llm]:
        """Answer until the block ends; what is in flight then is cut off. `port` 0: a free one."""
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._complete), web.get("/v1/models", self._models),
                web.get("/control", self._control), web.patch("/control", self._control),
            ]
        )  # fmt: skip
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            self.url = f"http://{host}:{runner.addresses[0][1]}/v1"
            yield self
        finally:
            await runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        begun, now = asyncio.get_running_loop().time(), self.behaviour
        try:
            asked = await request.json()
            user = next(one["content"] for one in reversed(asked["messages"]) if one["role"] == "user")
        except (ValueError, KeyError, TypeError, StopIteration, ConnectionError):
            return _error(400, "invalid_request_error", "not a chat completion")
        if self._dice.random() < now.limited_share:
            self.seen["limited"] += 1
            return _error(429, "rate_limit_exceeded", "slow down", {"Retry-After": f"{now.retry_after_s:g}"})
        if self._dice.random() < now.failing_share:
            self.seen["failed"] += 1
            return _error(500, "server_error", "broken, as asked for")
        tokens = _TOKEN.findall(reply(user))
        tokens = tokens[: asked.get("max_tokens") or asked.get("max_completion_tokens") or len(tokens)]
        usage = {"prompt_tokens": len(_TOKEN.findall(user)), "completion_tokens": len(tokens)}
        usage["total_tokens"] = sum(usage.values())
        try:
            response = await self._answer(request, tokens, usage, begun, stream=bool(asked.get("stream")))
        except (asyncio.CancelledError, ConnectionError):
            self.seen["left"] += 1
            raise
        self.seen["answered"] += 1
        return response

    async def _answer(
        self, request: web.Request, tokens: list[str], usage: Mapping[str, int], begun: float, *, stream: bool
    ) -> web.StreamResponse:  # fmt: skip
        head = {"id": f"chatcmpl-{request.path}", "created": int(time.time()), "model": MODEL}
        if not stream:
            async for _ in self._paced(tokens, begun):
                pass
            message = {"role": "assistant", "content": "".join(tokens)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        head["object"] = "chat.completion.chunk"

        async def send(delta: Mapping[str, str], finish: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await response.write(f"data: {json.dumps({**head, 'choices': [choice]})}\n\n".encode())

        async for token in self._paced(tokens, begun):
            await send({"content": token})
        await send({}, "stop")
        last = json.dumps({**head, "choices": [], "usage": usage})
        await response.write(f"data: {last}\n\ndata: [DONE]\n\n".encode())
        with suppress(ConnectionError):  # a client that has what it wants may be gone
            await response.write_eof()
        return response

    async def _paced(self, tokens: list[str], begun: float) -> AsyncIterator[str]:
        """Each token when it is due; by the clock, so that what sending costs makes the model no slower."""
        clock, now = asyncio.get_running_loop().time, self.behaviour
        for n, token in enumerate(tokens):
            due = begun + now.first_token_s + (n / now.tokens_per_s if now.tokens_per_s else 0.0)
            if due > clock():
                await asyncio.sleep(due - clock())
            if self.behaviour.hang_after is not None and n >= self.behaviour.hang_after:
                self.seen["hung"] += 1
                await asyncio.Event().wait()  # until the client leaves
            yield token

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "ragline"}]})

    async def _control(self, request: web.Request) -> web.Response:
        """GET: how it behaves, and what it has seen. PATCH: change what the body names."""
        if request.method == "PATCH":
            try:
                self.behaviour = replace(self.behaviour, **await request.json())
            except (ValueError, TypeError) as error:
                return _error(422, "invalid_request_error", f"{error}; the fields: {', '.join(asdict(Behaviour()))}")
        return web.json_response({**asdict(self.behaviour), "seen": self.seen})


def reply(user: str) -> str:
    """What it answers to the user turn of our prompt: a quotation with [1], or the refusal where there is no passage."""
    passage, question = _PASSAGE.search(user), _QUESTION.search(user)
    if passage is None:
        return REFUSAL
    asked = set(content_words(question[1])) if question else set[str]()
    place, _, text = passage["body"].partition("\n")  # title and headings stand on the first line
    body = text or place
    found = [" ".join(body[start:end].split()) for start, end in sentences(body)]
    best = max(found, key=lambda one: len(asked.intersection(content_words(one))), default="")
    return f"{best} [1]" if best else REFUSAL


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    said: dict[str, Any] = {"error": {"message": message, "type": code, "code": code, "param": None}}
    return web.json_response(said, status=status, headers=headers)


async def _serve(host: str, port: int) -> None:
    async with Llm().serving(host=host, port=port) as llm:
        print(json.dumps({"url": llm.url}), flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    try:
        asyncio.run(_serve(given.host, given.port))
    except KeyboardInterrupt:
        return  # Ctrl-C is how a server ends


if __name__ == "__main__":
    main()
