"""`ragline status`: what the server knows of its engines."""

from __future__ import annotations

import time
from typing import Any

from ragline.cli.session import Session, command


@command(warm=False)
async def status(session: Session) -> None:
    """Show each engine that queries depend on: in use or left out, how fast it answers, its last error; and what waits."""
    found = await session.server.get("v1", "status")
    if session.screen.as_json:
        return session.screen.data(found)
    columns = ("engine", "state", "since", "p95 ms", "deadline ms", "last error")
    session.screen.table(columns, [_row(one) for one in found["engines"]])
    waits = {"documents": found["documents_waiting"], **{f"{name} jobs": n for name, n in found["queues"].items()}}
    known = ", ".join(f"{'?' if count is None else count} {name}" for name, count in waits.items())
    return session.screen.line(f"Waiting: {known}.")


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    error = f"{one['last_error']} ({_ago(one['last_error_at'])})" if one["last_error"] else ""
    state = "left out" if one["left_out"] else "in use"
    return one["name"], state, _ago(one["since"]), one["p95_ms"], one["deadline_ms"], error


def _ago(at: float) -> str:
    seconds = max(0, int(time.time() - at))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
