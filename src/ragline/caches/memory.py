"""The hot cache of one process: a dictionary in the order of use. Nothing of it outlives the process."""

from __future__ import annotations

from collections import OrderedDict

from ragline.clock import Clock
from ragline.types import Kept

ENTRY_BYTES = 300
"""What an entry costs beside its value: key, tuple and links, measured on CPython 3.11."""


class MemoryCache:
    """`entries` and `max_bytes` bound it together: the one used longest ago goes first. Units: `max_bytes` bytes."""

    name = "memory"

    def __init__(self, clock: Clock, *, entries: int, max_bytes: int) -> None:
        self._clock = clock
        self._entries = entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[str, str], tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    async def check(self) -> None:
        """It always can."""

    async def get(self, namespace: str, key: str) -> Kept | None:
        found = self._kept.get((namespace, key))
        if found is None:
            return None
        value, until = found
        left_s = until - self._clock.monotonic()
        if left_s <= 0:
            self._drop((namespace, key))
            return None
        self._kept.move_to_end((namespace, key))
        return Kept(value, left_s)

    async def put(self, namespace: str, key: str, value: bytes, *, ttl_s: float) -> None:
        self._drop((namespace, key))
        self._kept[namespace, key] = value, self._clock.monotonic() + ttl_s
        self._bytes += len(value) + ENTRY_BYTES
        while len(self._kept) > self._entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    async def remove(self, namespace: str, key: str) -> None:
        self._drop((namespace, key))

    async def clear(self, namespace: str) -> int:
        gone = [key for key in self._kept if key[0] == namespace]
        for key in gone:
            self._drop(key)
        return len(gone)

    async def size(self) -> int:
        return len(self._kept)

    async def aclose(self) -> None:
        self._kept.clear()
        self._bytes = 0

    def _drop(self, key: tuple[str, str]) -> None:
        if (found := self._kept.pop(key, None)) is not None:
            self._bytes -= len(found[0]) + ENTRY_BYTES
