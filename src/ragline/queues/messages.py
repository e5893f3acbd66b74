"""What a queue carries: the id of a job, and nothing else. Whatever else lies there a stranger put there."""

from __future__ import annotations

import re

import structlog

log = structlog.get_logger()

_JOB = re.compile(r"[A-Za-z0-9_-]{1,128}")


def job_of(text: str, *, queue: str) -> str | None:
    """The id that `text` is; None: it is none, which is logged without its words."""
    if _JOB.fullmatch(text):
        return text
    log.warning("a message of the queue is no job", queue=queue, characters=len(text))
    return None
