"""`ragline webhooks`: list and replay deliveries; show and change the secrets that sign them."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.options import Config, DataDir, Debug, Json
from ragline.cli.screen import Screen
from ragline.cli.session import Session, command, run_to_exit

if TYPE_CHECKING:
    from ragline.errors import ConfigurationError

webhooks = typer.Typer(
    name="webhooks", help="Deliveries of `ask --async --webhook`, and what signs them.", no_args_is_help=True
)


class StateName(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"


@webhooks.command("list")
@command(warm=False)
async def list_deliveries(
    session: Session,
    state: Annotated[StateName | None, typer.Option("--state", help="Only these.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200)] = 50,
) -> None:
    """List deliveries, newest first: yours, or all for an admin."""
    found = await session.server.get("v1", "webhooks", "deliveries", state=state.value if state else None, limit=limit)
    if session.screen.as_json:
        return session.screen.data(found)
    return session.screen.table(
        ("id", "state", "tries", "next", "to", "last"), [_row(delivery) for delivery in found["deliveries"]]
    )


@webhooks.command()
@command(warm=False)
async def replay(
    session: Session, id: Annotated[str, typer.Argument(metavar="ID", help="As `webhooks list` shows it.")]
) -> None:
    """Send a delivery again, whatever became of it, with the same id and body."""
    delivery = await session.server.post("v1", "webhooks", "deliveries", id, "replay")
    if session.screen.as_json:
        return session.screen.data(delivery)
    session.screen.line(f"Delivery {id} is due at once.")
    if session.server.local:
        session.screen.note("The workers end with this command: `ragline up`, or the next command, sends it.")
    return None


@webhooks.command()
def secret(
    *, data_dir: DataDir = None, config: Config = None, as_json: Json = False, debug: Debug = False,
    new: Annotated[bool, typer.Option("--new", help="Only make one, to be set in webhooks.secrets; nothing is kept.")] = False,
    rotate: Annotated[bool, typer.Option("--rotate", help="Put a new one before those in the data folder; all sign.")] = False,
    retire: Annotated[bool, typer.Option("--retire", help="Keep the newest alone, once every receiver has it.")] = False,
) -> None:  # fmt: skip
    """Show the secrets that sign on this machine, the newest first. Receivers verify by any of them; who has one can sign."""
    given = {name: value for name, value in (("data_dir", data_dir), ("config", config)) if value is not None}
    done = _secret(given, Screen(as_json=as_json), new=new, rotate=rotate, retire=retire)
    run_to_exit(done, as_json=as_json, debug=debug)


async def _secret(given: dict[str, Path], screen: Screen, *, new: bool, rotate: bool, retire: bool) -> None:
    from ragline.cli.failures import WrongUsage
    from ragline.settings import load_settings
    from ragline.webhooks.signing import Signing, keep, made

    if new + rotate + retire > 1:
        raise WrongUsage("--new, --rotate and --retire are three things.", next_step="Say one of them.")
    if new:
        return _show(screen, [made()])
    settings = load_settings(**given)
    signing = Signing(settings)
    if (rotate or retire) and signing.file is None:
        raise _of_settings()
    if signing.file is not None and not settings.data_dir.exists():
        raise WrongUsage(
            f"There is no data folder {settings.data_dir.absolute()} yet.",
            next_step="`ragline up` makes it; or name another one with --data-dir.",
        )
    found = list(await signing.secrets())
    if signing.file is not None and rotate:
        keep(signing.file, found := [made(), *found])
    if signing.file is not None and retire:
        keep(signing.file, found := found[:1])
    return _show(screen, found)


def _show(screen: Screen, found: list[str]) -> None:
    if screen.as_json:
        return screen.data({"secrets": found})
    for one in found:
        screen.line(one)
    return None


def _of_settings() -> ConfigurationError:
    from ragline.errors import ConfigurationError

    return ConfigurationError(
        "webhooks.secrets: these are kept in the settings, not in the data folder.",
        next_step="Put the one of `ragline webhooks secret --new` before the others there; take the old one out once every "
        "receiver has the new one.",
    )


def _row(delivery: dict[str, Any]) -> tuple[object, ...]:
    due = delivery["due_at"]
    when = "" if due is None else datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    last = delivery["error"] or delivery["status"] or ""
    return delivery["id"], delivery["state"], delivery["attempts"], when, delivery["url"], last
