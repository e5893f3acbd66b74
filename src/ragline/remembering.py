"""A document text that was embedded lately is not embedded again: notices, templates, copies of a file."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ragline.protocols import Embedder, Purpose, Vectors
from ragline.types import Space

MOST_TEXTS = 16_384
"""Vectors kept, the least recently used go first: 24 MiB at 384 dimensions."""


class RememberingEmbedder:
    """An `Embedder` that gives equal document texts the vector it made for the first. A text's vector does not depend on
    what else is in the call, so nobody can tell, except by the time it took."""

    def __init__(self, embedder: Embedder, *, most_texts: int = MOST_TEXTS) -> None:
        self._embedder = embedder
        self._most_texts = most_texts
        self._kept: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()

    @property
    def space(self) -> Space:
        return self._embedder.space

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Vectors:
        if purpose == "query":
            return await self._embedder.embed(texts, purpose=purpose)
        keys = [_key(text) for text in texts]
        known = {key: self._kept[key] for key in keys if key in self._kept}
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if len(new) == len(texts):  # nearly always
            vectors = await self._embedder.embed(texts, purpose=purpose)
        else:
            if new:
                known |= zip(new, await self._embedder.embed(list(new.values()), purpose=purpose), strict=True)
            vectors = np.stack([known[key] for key in keys])
        self._keep(keys, vectors)
        return vectors

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        return self._embedder.token_spans(text)

    async def aclose(self) -> None:
        await self._embedder.aclose()

    def _keep(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        for key, vector in zip(keys, vectors, strict=True):
            if key not in self._kept:
                self._kept[key] = vector.copy()  # a view would keep the whole call's vectors
            self._kept.move_to_end(key)
        while len(self._kept) > self._most_texts:
            self._kept.popitem(last=False)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
