"""Bytes as a parser asks for them: at hand, or counted while they are in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


def at_hand(data: bytes) -> Callable[[], Awaitable[bytes]]:
    async def read() -> bytes:
        return data

    return read


class Counted:
    """Counts how many of the bytes that it made are in memory; `most`: at a time, ever."""

    def __init__(self) -> None:
        self.now = self.most = self.ever = 0

    def __call__(self, data: bytes) -> bytes:
        self.ever += 1
        self.now += 1
        self.most = max(self.most, self.now)
        return _Original(data, self)


class _Original(bytes):
    _counted: Counted

    def __new__(cls, data: bytes, counted: Counted) -> _Original:
        made = super().__new__(cls, data)
        made._counted = counted
        return made

    def __del__(self) -> None:
        self._counted.now -= 1
