"""`ragline keys`: create, list, rotate, revoke."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from ragline.cli.options import seconds
from ragline.cli.session import Session, command

keys = typer.Typer(name="keys", help="Make, list, rotate and revoke API keys.", no_args_is_help=True)


class RoleName(StrEnum):
    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


Id = Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")]


@keys.command()
@command(makes_folder=True, warm=False)
async def create(
    session: Session,
    principal: Annotated[str, typer.Argument(metavar="PRINCIPAL", help="Whom the key stands for.")],
    role: Annotated[RoleName, typer.Option("--role")] = RoleName.READ,
    namespace: Annotated[list[str] | None, typer.Option("--namespace", "-n", help="Only for it; repeat.")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="May read what is for it; repeat.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="Such as 12h, 30d; left out: never.")] = None,
) -> None:
    """Make a key; its token is shown this once. From the first key on, every request needs one."""
    body = {
        "principal": principal, "role": role.value, "namespaces": namespace or None, "groups": group or [],
        "expires_in_s": None if expires is None else seconds(expires, "--expires"),
    }  # fmt: skip
    return _token(session, await session.server.post("v1", "keys", body=body))


@keys.command("list")
@command(warm=False)
async def list_keys(session: Session) -> None:
    """List the keys, without their tokens."""
    found = await session.server.get("v1", "keys")
    if session.screen.as_json:
        return session.screen.data(found)
    return session.screen.table(
        ("id", "principal", "role", "namespaces", "groups", "state"), [_row(k) for k in found["keys"]]
    )


@keys.command()
@command(warm=False)
async def rotate(
    session: Session,
    id: Id,
    grace: Annotated[str, typer.Option("--grace", help="How long the old token is still good.")] = "24h",
) -> None:
    """Give a key a new token."""
    grace_s = seconds(grace, "--grace")
    return _token(session, await session.server.post("v1", "keys", id, "rotate", grace_s=grace_s))


@keys.command()
@command(warm=False)
async def revoke(session: Session, id: Id) -> None:
    """Refuse a key from now on."""
    gone = await session.server.delete("v1", "keys", id)
    if session.screen.as_json:
        return session.screen.data(gone)
    return session.screen.line(f"Key {id} is revoked.")


def _token(session: Session, made: dict[str, Any]) -> None:
    if session.screen.as_json:
        return session.screen.data(made)
    session.screen.line(made["token"])
    session.screen.note(
        f"Key {made['id']}. The token is shown this once; send it as `Authorization: Bearer …`, or set RAGLINE_KEY."
    )
    return None


def _row(key: dict[str, Any]) -> tuple[object, ...]:
    state = "good"
    if key["revoked_at"]:
        state = "revoked"
    elif key["expires_at"]:
        state = f"until {datetime.fromtimestamp(key['expires_at'], UTC):%Y-%m-%d %H:%MZ}"
    where = "all" if key["namespaces"] is None else ", ".join(key["namespaces"])
    return key["id"], key["principal"], key["role"], where, ", ".join(key["groups"]), state
