"""`ragline namespaces`: list, show, create, set, delete."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from ragline.cli.documents import confirm
from ragline.cli.failures import WrongUsage
from ragline.cli.options import json_object, seconds
from ragline.cli.screen import Screen
from ragline.cli.session import Session, command

namespaces = typer.Typer(name="namespaces", help="Make, list, set and delete corpora.", no_args_is_help=True)


class Method(StrEnum):
    RRF = "rrf"
    CONVEX = "convex"


Name = Annotated[str, typer.Argument(metavar="NAME")]
Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--field", help="NAME=TYPE, a filterable metadata field: keyword, integer, number, boolean, date; repeat."
    ),
]
Fuse = Annotated[Method | None, typer.Option("--fusion", help="How the two rankings become one.")]
Weights = Annotated[str | None, typer.Option("--weights", help='JSON: {"keyword": 1.0, "dense": 1.0}.')]
Candidates = Annotated[int | None, typer.Option("--candidates", help="Hits a leg before fusion.")]
Public = Annotated[
    bool | None,
    typer.Option(
        "--public/--private", help="Whether anybody may search it by GET, without a key, and a CDN store answers."
    ),
]
Chunk = Annotated[int | None, typer.Option("--chunk-tokens", help="Largest chunk, in the embedder's tokens.")]
Verify = Annotated[
    str | None,
    typer.Option(
        "--verify-within",
        help="How old the last look at a document's source may be, such as 24h, before it counts as stale; 0s: any age.",
    ),
]
Overlap = Annotated[int | None, typer.Option("--overlap-tokens", help="What neighbouring chunks share.")]


@namespaces.command("list")
@command(warm=False)
async def list_namespaces(session: Session) -> None:
    """List the namespaces."""
    found = await session.server.get("v1", "namespaces")
    if session.screen.as_json:
        return session.screen.data(found)
    columns = ("name", "sequence", "epoch")
    return session.screen.table(columns, [[one[name] for name in columns] for one in found["namespaces"]])


@namespaces.command()
@command(warm=False)
async def show(session: Session, name: Name) -> None:
    """Show settings, documents by state, and how far a re-index has come."""
    return _show(session.screen, await session.server.get("v1", "namespaces", name))


@namespaces.command()
@command(makes_folder=True, warm=False)
async def create(
    session: Session, name: Name, field: Fields = None, fusion: Fuse = None, weights: Weights = None,
    candidates: Candidates = None, chunk_tokens: Chunk = None, overlap_tokens: Overlap = None,
    public: Public = None, verify_within: Verify = None,
) -> None:  # fmt: skip
    """Make a namespace; when it is there already, set what is named here."""
    body = _body(field, fusion, weights, candidates, chunk_tokens, overlap_tokens, public, verify_within)
    await session.server.put("v1", "namespaces", name, body=body)
    return _show(session.screen, await session.server.get("v1", "namespaces", name))


@namespaces.command("set")
@command(warm=False)
async def set_namespace(
    session: Session, name: Name, field: Fields = None, fusion: Fuse = None, weights: Weights = None,
    candidates: Candidates = None, chunk_tokens: Chunk = None, overlap_tokens: Overlap = None,
    public: Public = None, verify_within: Verify = None,
) -> None:  # fmt: skip
    """Change settings: fusion holds at once, fields from the next `reindex`, chunk sizes from `reindex --reparse`."""
    body = _body(field, fusion, weights, candidates, chunk_tokens, overlap_tokens, public, verify_within)
    if not body:
        raise WrongUsage("Nothing to set.", next_step="Name a setting, such as --chunk-tokens 150.")
    if "fusion" in body and "method" not in body["fusion"]:
        now = await session.server.get("v1", "namespaces", name)
        body["fusion"]["method"] = now["settings"]["fusion"]["method"]
    await session.server.patch("v1", "namespaces", name, body=body)
    return _show(session.screen, await session.server.get("v1", "namespaces", name))


@namespaces.command()
@command(warm=False)
async def delete(
    session: Session, name: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Delete a namespace with all its documents, at once."""
    now = await session.server.get("v1", "namespaces", name)
    count = sum(n for state, n in now["documents"].items() if state != "deleted")
    confirm(f"Delete the namespace {name} with its {count} documents?", yes=yes)
    gone = await session.server.delete("v1", "namespaces", name)
    if session.screen.as_json:
        return session.screen.data(gone)
    return session.screen.line(f"Namespace {name} and its {count} documents are deleted.")


def _body(
    fields: list[str] | None, fusion: Method | None, weights: str | None, candidates: int | None,
    chunk_tokens: int | None, overlap_tokens: int | None, public: bool | None, verify_within: str | None,
) -> dict[str, Any]:  # fmt: skip
    body: dict[str, Any] = {
        "candidates": candidates, "chunk_tokens": chunk_tokens, "overlap_tokens": overlap_tokens,
        "public": public, "verify_within_s": None if verify_within is None else seconds(verify_within, "--verify-within"),
    }  # fmt: skip
    if fields:
        pairs = [field.partition("=") for field in fields]
        if not all(name and kind for name, _, kind in pairs):
            raise WrongUsage("--field is NAME=TYPE.", next_step="Such as --field year=integer.")
        body["fields"] = {name: kind for name, _, kind in pairs}
    if fusion or weights:
        body["fusion"] = {"method": fusion.value} if fusion else {}
        if weights:
            body["fusion"]["weights"] = json_object(weights, "--weights")
    return {name: value for name, value in body.items() if value is not None}


def _show(screen: Screen, now: dict[str, Any]) -> None:
    if screen.as_json:
        return screen.data(now)
    settings, building = now["settings"], now["building"]
    fusion = settings["fusion"]
    weights = ", ".join(f"{leg} {weight}" for leg, weight in fusion["weights"].items())
    return screen.facts(
        [
            ("name", now["name"]),
            ("documents", ", ".join(f"{count} {state}" for state, count in now["documents"].items()) or "none"),
            ("chunks", now.get("chunks")),
            ("sequence", now["sequence"]),
            ("epoch", now["epoch"]),
            ("building", f"{building['epoch']}: {building['done']} of {building['total']}" if building else None),
            ("space", now["space"]["id"]),
            ("languages", ", ".join(f"{count} {name}" for name, count in now["languages"].items()) or None),
            ("fields", ", ".join(f"{name}={kind}" for name, kind in settings["fields"].items()) or "none"),
            ("fusion", f"{fusion['method']} ({weights}), {now['candidates']} candidates"),
            ("public", "yes: anybody may search it" if settings.get("public") else None),
            ("freshness", f"verified within {within:.0f} s" if (within := settings.get("verify_within_s")) else None),
            ("chunk tokens", f"{settings['chunk_tokens']}, {settings['overlap_tokens']} shared"),
        ]
    )
