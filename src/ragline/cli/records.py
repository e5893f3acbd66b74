"""A records file: each JSONL line ``{"_id", "title", "text", …}`` is a document of its own, other keys its metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from ragline.cli.sources import Item, Trouble

MEDIA_TYPE = "application/vnd.ragline.record+json"


def read_records(
    lines: BinaryIO, name: str, metadata: Mapping[str, Any], *, taken: set[str], troubled: Callable[[Trouble], None]
) -> Iterator[Item]:  # fmt: skip
    """An item a line; a bad line is told to `troubled` by its number, and left out. `taken` holds the ids met so far."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = _item(line, metadata)
            if item.uri in taken:
                raise ValueError(f"the _id {item.uri!r} stands in an earlier line too")
        except (ValueError, RecursionError) as error:
            troubled(Trouble(f"{name}:{number}", f"bad line: {error}"))
            continue
        taken.add(item.uri)
        yield item


def _item(line: bytes, metadata: Mapping[str, Any]) -> Item:
    """Raises ValueError: what is wrong with the line."""
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    id, title, text = record.pop("_id", None), record.pop("title", None) or "", record.pop("text", None) or ""
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if not isinstance(id, str) or not id.strip():
        raise ValueError('it has no "_id"')
    if not isinstance(title, str) or not isinstance(text, str):
        raise ValueError('"title" and "text" must be strings')
    data = json.dumps({"_id": id, "title": title, "text": text}, ensure_ascii=False).encode("utf-8", "replace")
    return Item(
        uri=_text(id), size=len(data), data=data, title=_text(title).strip(), media_type=MEDIA_TYPE,
        metadata={**_metadata(record), **metadata},
    )  # fmt: skip


def _metadata(rest: Mapping[str, Any]) -> dict[str, Any]:
    """BEIR keeps metadata in an object of that name; null means none. Raises ValueError: an object inside."""
    nested = rest.get("metadata")
    flat = {**{k: v for k, v in rest.items() if k != "metadata"}, **nested} if isinstance(nested, dict) else dict(rest)
    known = {name: value for name, value in flat.items() if value is not None}
    for name, value in known.items():
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(x, dict | list) for x in value)):
            raise ValueError(
                f"the metadata {name!r} is nested; use a string, a number, true or false, or a list of these"
            )
    return known


def _text(text: str) -> str:
    """Without lone surrogates, which JSON can write and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()
