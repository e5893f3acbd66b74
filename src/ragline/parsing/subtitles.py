"""SRT and WebVTT: what is said, without numbers and styles; a cue's time stands before it once a minute.

Cues cut sentences, so those of one minute run together: a chunk then holds sentences, and says when they are spoken.
"""

from __future__ import annotations

import re

from ragline.parsing.decode import decode
from ragline.parsing.outline import Outline, clean

_TIMES = re.compile(r"^(?:(\d{1,3}):)?(\d{1,2}):(\d{2})[.,]\d{1,3}\s*-->\s*\S+")
_TAG = re.compile(r"</?(?:[bicuv]|lang|ruby|rt|font|\d[\d:.]*)(?:[.\s][^<>]*)?>|\{\\[^{}]*\}", re.IGNORECASE)
_HEADER = re.compile(r"\A(?:WEBVTT|NOTE)\b[ \t]*")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>")


def parse(data: bytes, out: Outline) -> None:
    """What is no cue is kept as a paragraph, but for styles."""
    text = clean(decode(data))
    minute, lines = -1, list[str]()
    for block in re.split(r"\n[ \t]*\n", text):
        found = next(
            ((i, times) for i, line in enumerate(block.split("\n")[:3]) if (times := _TIMES.match(line))), None
        )
        if found is None:
            if not block.lstrip().startswith(("STYLE", "REGION")):  # what is left is a header or a note
                out.paragraph(_HEADER.sub("", block.strip()))
            continue
        at, times = found
        words = " ".join(
            _TAG.sub("", _VOICE.sub(r"\1: ", line)).strip() for line in block.split("\n")[at + 1 :]
        ).strip()
        now = int(times[1] or 0) * 60 + int(times[2])
        if now != minute:
            out.paragraph(_spoken(minute, lines))
            minute, lines = now, []
        lines.append(words)
    out.paragraph(_spoken(minute, lines))


def _spoken(minute: int, lines: list[str]) -> str:
    words = [line for line, before in zip(lines, ["", *lines], strict=False) if line and line != before]
    return f"[{minute // 60}:{minute % 60:02}:00] " + "\n".join(words) if words else ""
