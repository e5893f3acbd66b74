"""`ragline reindex`: build a namespace's stores anew beside the serving ones, and cut over."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from ragline.cli.failures import SomeFailed
from ragline.cli.progress import LOOK_S, next_look, progress
from ragline.cli.session import Session, command
from ragline.cli.sources import Trouble


@command(warm=False)
async def reindex(
    session: Session,
    namespace: Annotated[
        list[str] | None, typer.Option("--namespace", "-n", help="Only it; repeat. Default: all.")
    ] = None,
    reparse: Annotated[bool, typer.Option("--reparse", help="Parse and chunk every document again, too.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is done.")] = True,
) -> None:
    """Rebuild the stores from the blobs, while the old ones serve; needed after a change of fields or of the embedder."""
    server, screen = session.server, session.screen
    names = namespace or [one["name"] for one in (await server.get("v1", "namespaces"))["namespaces"]]
    done: list[dict[str, Any]] = []
    troubles: list[Trouble] = []
    for name in names:
        begun = await server.post("v1", "namespaces", name, "reindex", body={"reparse": reparse})
        if wait and reparse:
            troubles += await _reparsed(session, name)
        elif wait:
            await _built(session, name, begun["building"])
        now = await server.get("v1", "namespaces", name)
        done.append({"namespace": name, "epoch": now["epoch"], **begun})
        if not screen.as_json:
            words = "parsed again" if reparse else f"served from {now['epoch']}"
            screen.line(
                f"{name}: {words}." if wait else f"{name}: begun; `ragline namespaces show {name}` tells how far it is."
            )
    if screen.as_json:
        screen.data({"reindexed": done, "failed": [{"uri": one.uri, "reason": one.reason} for one in troubles]})
    elif troubles:
        screen.table(("document", "why"), [(one.uri, one.reason) for one in troubles])
    if troubles:
        raise SomeFailed


async def _built(session: Session, name: str, label: str) -> None:
    wait_s = LOOK_S[0]
    with progress(session.screen, f"Re-indexing {name}") as show:
        while True:
            now = await session.server.get("v1", "namespaces", name)
            building = now["building"]
            if building is None or building["epoch"] != label:
                return
            show(building["done"], building["total"], "documents")
            await asyncio.sleep(wait_s)
            wait_s = next_look(wait_s)


async def _reparsed(session: Session, name: str) -> list[Trouble]:
    from ragline.cli.watch import listed, settle

    ours = {one["id"]: (one["uri"], one["revision"]) async for one in listed(session.server, name)}
    with progress(session.screen, f"Parsing {name} again") as show:
        return await settle(session.server, name, ours, show)
