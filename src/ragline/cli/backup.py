"""`ragline backup` and `ragline restore`: all of a service in one file, and a service from that file."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from ragline.cli.failures import WrongUsage
from ragline.cli.options import Config, DataDir, Debug, Json
from ragline.cli.progress import progress
from ragline.cli.screen import Screen
from ragline.cli.session import Session, command, run_to_exit

if TYPE_CHECKING:
    from ragline.datafolder import DataFolder
    from ragline.protocols import Blobs
    from ragline.settings import Settings
    from ragline.system import System
    from ragline.types import Namespace

BETWEEN = 200
"""Blobs between two looks of a person at how far it is."""


@command(warm=False)
async def backup(
    session: Session,
    target: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="The file to write, or where to put one.")],
) -> None:
    """Write everything into one file, while the service goes on; whatever was accepted before is in it."""
    file = _named(target)
    half = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    size = 0
    try:
        with progress(session.screen, "Backing up") as show, _privately(half) as out:
            async for piece in session.server.pieces("v1", "backup"):
                out.write(piece)
                size += len(piece)
                show(size >> 20, None, "MiB")
            out.flush()
            os.fsync(out.fileno())
        manifest = _checked(half, file)
        half.rename(file)
    except OSError as error:
        raise WrongUsage(
            f"{file} cannot be written: {error.strerror or error}.", next_step="Name another place, or free space."
        ) from error
    finally:
        half.unlink(missing_ok=True)
    if session.screen.as_json:
        return session.screen.data({"file": str(file), "bytes": size, "documents": manifest.documents})
    words = f"{manifest.documents} documents of {manifest.namespaces} namespaces, {size / 1e6:.1f} MB"
    session.screen.line(f"{file}: {words}.")
    return session.screen.note(f"`ragline restore {file} --data-dir FOLDER` makes a service of it.")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `ragline backup` has written.")],
    *, data_dir: DataDir = None, config: Config = None, as_json: Json = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Make a data folder from a backup. The folder must be new or empty, or left by a restore of the same file that was cut
    short. Every byte is checked before the first is written.
    """
    given = {name: value for name, value in (("data_dir", data_dir), ("config", config)) if value is not None}
    run_to_exit(_restore(file, given, Screen(as_json=as_json)), as_json=as_json, debug=debug)


async def _restore(file: Path, given: dict[str, Any], screen: Screen) -> None:
    import asyncio

    from ragline import logs
    from ragline.backup import check
    from ragline.datafolder import DataFolder
    from ragline.settings import load_settings

    settings = load_settings(**given)
    logs.configure("error")
    manifest = await asyncio.to_thread(check, file)
    folder = DataFolder(settings.data_dir)
    folder.take(secrets.token_urlsafe(32), to_restore=True)
    try:
        with progress(screen, "Restoring") as show:
            await _unpack(file, settings, folder, lambda done: show(done, None, "files"))
            shown = await _fill(settings)
        folder.end_restore()
    finally:
        folder.release()
    if screen.as_json:
        return screen.data({"data_dir": str(folder.path), "created_at": manifest.created_at, "namespaces": shown})
    made = datetime.fromtimestamp(manifest.created_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    screen.line(f"{folder.path} is as of {made}: {manifest.documents} documents of {manifest.namespaces} namespaces.")
    for name, one in shown.items():
        if one["space"] != one["embedder"]:
            lacking = "" if one["documents"] is not None else ", and not all of its documents are in its stores"
            screen.note(
                f"{name} holds vectors of {one['space']}, the embedder is {one['embedder']}{lacking}: "
                f"run `ragline reindex -n {name}`."
            )
    return screen.note("`ragline up` serves it; documents that were waiting are processed then.")


async def _unpack(file: Path, settings: Settings, folder: DataFolder, show: Callable[[int], None]) -> None:
    """Blobs first, the registry last. Begun again, it writes all of it again: that is safe at any point, and simple.

    Raises:  WrongUsage: the folder is neither empty nor what a restore of this file has left.
    """
    import asyncio

    from ragline.backup import BLOBS, REGISTRY, members
    from ragline.blobs import open_blobs

    if settings.registry:
        raise WrongUsage(
            "registry: a backup is restored into SQLite only.", next_step="Leave `registry` empty for the restore."
        )
    registry = folder.path / "registry.sqlite"
    blobs = open_blobs(settings.blobs or str(folder.path / "blobs"))
    await _check_room(file, folder, blobs)
    folder.begin_restore()
    half = registry.with_suffix(".half")
    for done, member in enumerate(members(file)):
        if member.name == REGISTRY:
            with half.open("wb") as out:
                out.writelines(member.pieces)
        elif member.name.startswith(BLOBS):
            await blobs.put(member.name.removeprefix(BLOBS), b"".join(member.pieces))
        if done % BETWEEN == 0:
            show(done)
    await asyncio.to_thread(_in_place, half, registry)


async def _check_room(file: Path, folder: DataFolder, blobs: Blobs) -> None:
    """Nothing is overwritten but by the same. Raises WrongUsage: something else is there."""
    from ragline.backup import BLOBS, members

    there = await blobs.paths("")
    if not folder.half_restored:
        if there or (folder.path / "registry.sqlite").stat().st_size:
            raise WrongUsage(
                f"{folder.path} holds documents already; a restore overwrites nothing.",
                next_step="Name an empty folder with --data-dir, or move that one away.",
            )
        return
    torn = {path for path in there if path.rpartition("/")[2].startswith(".")}  # being written when it was killed
    if not torn.union(member.name.removeprefix(BLOBS) for member in members(file)).issuperset(there):
        raise WrongUsage(
            f"{folder.path} holds part of another backup: a restore of it did not come to its end.",
            next_step="Restore that one again, name an empty folder with --data-dir, or remove this one.",
        )
    for path in torn:
        await blobs.delete(path)


def _in_place(half: Path, registry: Path) -> None:
    with half.open("rb") as written:
        os.fsync(written.fileno())
    half.chmod(0o600)
    for log in ("-wal", "-shm"):  # of the one that an earlier restore put there: SQLite would read them into this one
        registry.with_name(registry.name + log).unlink(missing_ok=True)
    half.replace(registry)


async def _fill(settings: Settings) -> dict[str, dict[str, Any]]:
    """The stores, from the blobs, as the serving epochs have them; what an earlier restore has filled is left as it is."""
    from ragline.build import build

    system = await build(settings)
    try:
        return {one.name: await _filled(system, one) for one in await system.namespaces.all()}
    finally:
        await system.aclose()


async def _filled(system: System, one: Namespace) -> dict[str, Any]:
    """`documents`: None where the embedder is another one and some documents have no vectors of the space that serves. All of
    it is in the folder, so that is no reason to end: a re-index moves it. Raises EngineError: of any other kind.
    """
    from ragline.errors import EngineUnavailable

    spaces = {"space": one.epoch.space.id, "embedder": system.embedder.space.id}
    try:
        return {"documents": await system.epochs.refill(one.name), **spaces}
    except EngineUnavailable as error:
        if error.engine != "embedder" or one.epoch.space == system.embedder.space:
            raise
        return {"documents": None, **spaces}


def _privately(path: Path) -> BinaryIO:
    """A new file for its owner alone: all documents are in it."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _checked(half: Path, file: Path) -> Any:
    from ragline.backup import check
    from ragline.errors import InvalidRequest

    try:
        return check(half)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"The backup to {file} did not arrive whole.", next_step="Run it again; the server's log says why."
        ) from error


def _named(target: Path) -> Path:
    """Raises WrongUsage: the file exists."""
    if target.is_dir():
        target = target / f"ragline-{datetime.now(UTC):%Y%m%d-%H%M%S}.tar"
    if target.exists():
        raise WrongUsage(f"{target} exists, and is not overwritten.", next_step="Name a new file, or a folder.")
    if not target.parent.is_dir():
        raise WrongUsage(f"There is no folder {target.parent}.", next_step="Make it, or name another.")
    return target
