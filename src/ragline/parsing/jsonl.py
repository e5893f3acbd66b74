"""JSON and JSON lines: objects of a list become rows that name their fields, at any depth; long strings paragraphs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TypeAlias

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline, one_line

LONG_CHARS = 400
"""A longer string, or one with line breaks, is prose and gets a paragraph of its own."""

Json: TypeAlias = "dict[str, Json] | list[Json] | str | bool | None"
"""Numbers stay the strings they were, so that no digit changes."""


def parse(data: bytes, out: Outline) -> None:
    """What is not JSON, or nested beyond reason, is kept as the text it is."""
    text = decode(data)
    whole = _load(text)
    if whole is not None:
        _write(whole[0], out)
        return
    lines = text.splitlines()
    if not any(_load(line) for line in lines[:20] if line.strip()):
        out.verbatim(text)
        return
    for line in lines:
        value = _load(line)
        if value is not None:
            _row(value[0], out)
        else:
            out.paragraph(line)


def _load(text: str) -> tuple[Json] | None:
    try:
        return (json.loads(text, parse_int=str, parse_float=str, parse_constant=str),)
    except (ValueError, RecursionError):
        return None


def _write(value: Json, out: Outline) -> None:
    """A list: a row for each item. An object: its plain fields, then each list of objects under its name."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            _row(item, out, first=i == 0)
    elif isinstance(value, dict):
        lists = {k: v for k, v in value.items() if isinstance(v, list) and any(isinstance(i, dict) for i in v)}
        _row({k: v for k, v in value.items() if k not in lists}, out, first=True)
        for key, items in lists.items():
            out.heading(1, key)
            for i, item in enumerate(items):
                _row(item, out, first=i == 0)
    else:
        _row(value, out)


def _row(value: Json, out: Outline, *, first: bool = False) -> None:
    names, cells, prose = [], [], []
    for path, leaf in _leaves(value):
        if len(leaf) > LONG_CHARS or "\n" in leaf.strip():
            prose.append((path, leaf))
        else:
            names.append(path)
            cells.append(leaf)
    out.row(cells, names, first=first)
    for path, leaf in prose:
        out.paragraph(f"{one_line(path)}:\n{leaf}" if path else leaf)


def _leaves(value: Json) -> Iterator[tuple[str, str]]:
    """(dotted path, text) of every leaf, in order; without recursion. Items of a list share their list's path."""
    waiting: list[tuple[str, Json]] = [("", value)]
    while waiting:
        path, at = waiting.pop()
        if isinstance(at, dict):
            waiting += [(f"{path}.{key}" if path else key, inner) for key, inner in reversed(at.items())]
        elif isinstance(at, list):
            waiting += [(path, inner) for inner in reversed(at)]
        elif isinstance(at, bool):
            yield path, "true" if at else "false"
        elif at is not None:
            yield path, at
