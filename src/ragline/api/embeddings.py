"""The OpenAI-compatible embeddings route, batched over callers by the embedder's wrapper."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from ragline.api.access import Reader
from ragline.api.models import EmbeddingsBody
from ragline.errors import InvalidRequest
from ragline.protocols import Embedder

router = APIRouter(prefix="/v1", tags=["embeddings"])

MOST_TEXTS = 2048
"""Texts in one request, as in the API this is compatible with."""


@router.post("/embeddings")
async def embeddings(body: EmbeddingsBody, request: Request, _: Reader) -> JSONResponse:
    """Vectors of the served model, of unit length."""
    embedder: Embedder = request.app.state.embedder
    space = embedder.space
    texts = [body.input] if isinstance(body.input, str) else body.input
    if body.model and body.model not in (space.model, space.model.rsplit("/", 1)[-1], space.id):
        raise InvalidRequest(
            f"model {body.model[:80]!r} is not served here.", next_step=f"Use {space.model}.", field="model"
        )
    if body.dimensions not in (None, space.dim):
        raise InvalidRequest(
            f"dimensions {body.dimensions}: {space.model} has {space.dim}.",
            next_step="Leave it out.",
            field="dimensions",
        )
    if not 1 <= len(texts) <= MOST_TEXTS:
        raise InvalidRequest(f"{len(texts)} texts.", next_step=f"Send 1 to {MOST_TEXTS} in a request.", field="input")
    purpose = body.input_type or ("query" if isinstance(body.input, str) else "document")
    vectors = await embedder.embed(texts, purpose=purpose)
    tokens = await asyncio.to_thread(lambda: sum(len(embedder.token_spans(text)) for text in texts))
    data = [
        {"object": "embedding", "index": index, "embedding": _encode(vector, body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": space.model, "usage": usage})


def _encode(vector: Any, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
    return [float(x) for x in vector]
