"""Readers of the options behind an engine's URL: text → value. Each raises ValueError: that is no value of it."""

from __future__ import annotations

from collections.abc import Callable


def number(*, least: int = 1, most: int = 2**31 - 1) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not least <= int(value) <= most:
            raise ValueError
        return int(value)

    return read


def seconds(*, least: float = 0.001, most: float = 3600.0) -> Callable[[str], float]:
    def read(value: str) -> float:
        if not least <= float(value) <= most:
            raise ValueError
        return float(value)

    return read


def switch(value: str) -> bool:
    """The name alone is yes."""
    if value.lower() not in ("", "1", "true", "0", "false"):
        raise ValueError
    return value.lower() not in ("0", "false")
