"""`ragline doctor --deep [--mend]`: the audit, asked of the server that has the data, or of this process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragline.cli.screen import Screen

if TYPE_CHECKING:
    from ragline.cli.connection import Connection

MENDED_WITHIN_S = 600.0
"""How long mending is waited for; a server goes on by itself after that, and so does the next process on the folder."""

LOOK_S = 1.0
"""Between two audits while workers mend."""

MOST_SHOWN = 50
"""Findings listed; --json has all."""


async def deep(
    url: str | None, key: str | None, data_dir: Path | None, config: Path | None, *, mend: bool
) -> dict[str, Any]:
    """The audit as the API answers it; with `mend`, what was found, what was done about it, and what is `left`.

    Raises:  Refused, NotReachable, ConfigurationError, EngineError.
    """
    from ragline.cli.connection import Where, connect

    where = Where(url=url, key=key, data_dir=data_dir, config=config)
    async with connect(where, warm=False) as server:
        found: dict[str, Any] = await server.post("v1", "audit", body={"mend": mend})
        found["left"] = await _left(server, found["findings"]) if mend else found["findings"]
    return found


async def _left(server: Connection, findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a new audit still finds, once the workers are done with what was mended."""
    if not any(one.get("mended") for one in findings):
        return findings
    clock = asyncio.get_running_loop()
    deadline = clock.time() + MENDED_WITHIN_S
    while True:
        now = await server.post("v1", "audit")
        at_work = now["due"] or any(one["kind"] == "missing collection" for one in now["findings"])
        if not at_work or clock.time() > deadline:
            return list(now["findings"])
        await asyncio.sleep(LOOK_S)


def show(screen: Screen, audit: dict[str, Any], *, mend: bool) -> None:
    """For people; `left` says what the exit code says."""
    screen.line()
    counts = (f"{audit[name]} {name}" for name in ("namespaces", "documents", "chunks", "blobs"))
    screen.line(f"Audit of {', '.join(counts)}; work is due on {audit['due']}.")
    if audit["moving"]:
        screen.line(f"{audit['moving']} documents kept changing and were not judged: look again when they rest.")
    findings = audit["findings"]
    if not findings:
        return screen.line("Registry, stores and blobs agree.")
    screen.line(f"{len(findings)} findings:")
    columns = ("kind", "document", "place", "detail", "mended" if mend else "remedy")
    rows = [
        (one["kind"], one.get("uri") or one.get("document"), one["place"], one["detail"],
         (one.get("mended") or "no") if mend else one["remedy"])
        for one in findings[:MOST_SHOWN]
    ]  # fmt: skip
    screen.table(columns, rows)
    if len(findings) > MOST_SHOWN:
        screen.line(f"… and {len(findings) - MOST_SHOWN} more; --json shows all.")
    if mend:
        screen.line(f"{len(audit['left'])} findings are left." if audit["left"] else "Everything found is mended.")
    for step in sorted({one["next_step"] for one in audit["left"]}):
        screen.line(f"next: {step}")
    return None
