"""`ragline cache`: stats, forget, clear."""

from __future__ import annotations

from typing import Annotated

import typer

from ragline.cli.documents import find
from ragline.cli.options import InNamespace
from ragline.cli.session import Session, command

cache = typer.Typer(name="cache", help="Look at the hot cache, and make it forget.", no_args_is_help=True)


@cache.command()
@command(warm=False)
async def stats(session: Session) -> None:
    """Show what the server's cache holds, and what became of its looks since that process began."""
    found = await session.server.get("v1", "cache")
    if session.screen.as_json:
        return session.screen.data(found)
    if found["cache"] is None:
        return session.screen.line("There is no cache: cache.url is off, or empty beside engines that are servers.")
    session.screen.facts(
        [
            ("cache", found["cache"] + (", left out: it fails" if found["left_out"] else "")),
            ("entries", found["entries"]),
            *((f"{kind} queries", _told(counts)) for kind, counts in found["requests"].items()),
            ("hit ratio", _ratio(found["requests"])),
            ("audited", _told(found["audits"]) or None),
        ]
    )
    return None


@cache.command()
@command(warm=False)
async def forget(
    session: Session,
    document: Annotated[str, typer.Option("--document", "-d", help="Its id or its uri.")],
    namespace: InNamespace = "default",
) -> None:
    """Let no cached result show a document as it was found before, and check every other entry once more."""
    one = await find(session.server, namespace, document)
    done = await session.server.delete("v1", "namespaces", namespace, "cache", "documents", one["id"])
    if session.screen.as_json:
        return session.screen.data(done)
    return session.screen.line(f"Forgotten: whatever was cached of {done['uri']}.")


@cache.command()
@command(warm=False)
async def clear(session: Session, namespace: InNamespace = "default") -> None:
    """Remove every entry of a namespace."""
    done = await session.server.delete("v1", "namespaces", namespace, "cache")
    if session.screen.as_json:
        return session.screen.data(done)
    return session.screen.line(f"{done['entries']} entries of {namespace} removed.")


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def _ratio(requests: dict[str, dict[str, int]]) -> str | None:
    looks = sum(count for counts in requests.values() for count in counts.values())
    hits = sum(counts.get("hit", 0) for counts in requests.values())
    return f"{hits / looks:.1%}" if looks else None
