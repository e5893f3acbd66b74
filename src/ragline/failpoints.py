"""Named points at which a process kills itself, for crash tests alone; `build` arms one when the setting names it.

Nothing in the paths knows of them: an armed point puts a wrapper around one method of one object of this process, and
without the setting no wrapper exists. So they cost nothing and can do nothing in production, no line of the code under test
is there for the test, and a point can stand around every commit without a call site that somebody must keep in place. The
price is that a point stands before or after a call, never inside: inside are SQLite's, Tantivy's and the file system's own
promises, which SIGKILLs at random moments try.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import structlog

from ragline.errors import ConfigurationError

log = structlog.get_logger()

POINTS = (
    "contents.put_original", "documents.accept", "documents.delete", "documents.retry", "claims.claim", "members.accept",
    "members.keep_only", "contents.put",
    "claims.mark_chunked", "contents.put_vectors", "vectors.upsert", "keywords.upsert", "vectors.update_payload",
    "keywords.update_payload", "claims.mark_live", "vectors.delete", "keywords.delete", "contents.sweep",
    "claims.mark_swept", "namespaces.plan_epoch", "vectors.create", "keywords.create", "namespaces.start_building",
    "namespaces.cut_over", "vectors.drop", "keywords.drop", "namespaces.forget_epoch", "contents.forget",
    "upkeep.purge_tombstones", "log.append",
)  # fmt: skip
"""Every durable step of the ingest path, of a re-index and of housekeeping: PART.METHOD. `log` only where there is one."""


def arm(setting: str, parts: Mapping[str, object]) -> None:
    """Let this process end by SIGKILL at ``PART.METHOD.before`` or ``.after``, at the N-th call (``:N``; the first).

    ``@FILE`` behind it: calls count only while the file exists, so that a test chooses when it begins.
    `parts`: the objects by the names that POINTS has.
    Raises:  ConfigurationError: it names no point.
    """
    point, _, file = setting.partition("@")
    point, _, number = point.partition(":")
    name, _, moment = point.rpartition(".")
    part, _, method = name.partition(".")
    if (
        name not in POINTS
        or parts.get(part) is None
        or moment not in ("before", "after")
        or not (number or "1").isdecimal()
        or number == "0"
    ):
        raise ConfigurationError(
            f"failpoint: {setting!r} names no point.",
            next_step="It is for crash tests: leave it empty, or write PART.METHOD.before or .after, with :N for the N-th "
            f"call, of {', '.join(POINTS)}.",
        )
    log.warning("armed to kill itself: this is a crash test", failpoint=setting)
    holder, armed = parts[part], Path(file) if file else None
    _wrap(holder, method, after=moment == "after", nth=int(number or 1), armed=armed)


def _wrap(holder: object, method: str, *, after: bool, nth: int, armed: Path | None) -> None:
    real: Callable[..., Any] = getattr(holder, method)
    left = nth

    def reached() -> None:
        nonlocal left
        if armed is None or armed.exists():
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    @wraps(real)
    async def deadly(*args: Any, **words: Any) -> Any:
        if not after:
            reached()
        result = await real(*args, **words)
        if after:
            reached()
        return result

    setattr(holder, method, deadly)
