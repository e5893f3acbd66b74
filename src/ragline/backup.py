"""A backup: one tar file with the registry as of one moment, and every blob that it names (docs/adr/0008).

    manifest.json      what made it, and what is in it
    registry.sqlite    as SQLite's own backup copies it while others write
    blobs/…            bytes, chunks and vectors of each document
    end.json           SHA-256 of each member above; a backup without it is cut short

The stores are not in it: they are derived, and a restore fills them from the blobs. The API streams it, the CLI reads it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from ragline import __version__
from ragline.blobs import KeepingBlobs
from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.contents import off_loop
from ragline.errors import InvalidRequest
from ragline.registry.migrations import HEAD, SCHEMA
from ragline.registry.snapshot import Snapshot, take

FORMAT = 1
"""Counted up when an older Ragline could not read what a newer one writes."""

PIECE = 1 << 20
"""Bytes of the registry that are sent at a time."""

MANIFEST, REGISTRY, BLOBS, END = "manifest.json", "registry.sqlite", "blobs/", "end.json"
KIND = "ragline backup"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`schema`: of the registry. `documents`: as of the backup, tombstones left out. Units: `created_at` seconds since 1970."""

    kind: str
    format: int
    ragline: str
    schema: str
    created_at: float
    namespaces: int
    documents: int


@dataclass(frozen=True, slots=True)
class Member:
    """`pieces` are read once, before the next member is asked for."""

    name: str
    pieces: Iterator[bytes]


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def written(database: Database, blobs: KeepingBlobs, clock: Clock) -> AsyncIterator[bytes]:
    """The file, piece by piece, while everything goes on: what was accepted before the first piece is in it.

    Raises:  EngineError, and then the file has no end.
    """
    with tempfile.TemporaryDirectory(prefix="ragline-backup-") as folder:
        async with blobs.keeping() as kept:  # until the last blob is copied: the next revision must not take it away
            snapshot = await take(database, Path(folder) / REGISTRY)
            manifest = Manifest(
                KIND, FORMAT, __version__, HEAD, clock.now(), snapshot.namespaces, snapshot.documents
            )  # fmt: skip
            sums: dict[str, str] = {}
            async for piece in _member(MANIFEST, json.dumps(asdict(manifest)).encode(), sums):
                yield piece
            async for piece in _registry(snapshot, sums):
                yield piece
            for path in await kept.paths(""):
                owner = path.rpartition("/")[0]
                if owner in snapshot.blobs and not PurePosixPath(path).name.startswith("."):  # else half written
                    async for piece in _member(BLOBS + path, await kept.get(path), sums):
                        yield piece
        async for piece in _member(END, json.dumps(sums).encode(), {}):
            yield piece
        yield bytes(2 * tarfile.BLOCKSIZE)


async def _member(name: str, data: bytes, sums: dict[str, str]) -> AsyncIterator[bytes]:
    sums[name] = await off_loop(_sha256, data)
    yield _header(name, len(data))
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)


async def _registry(snapshot: Snapshot, sums: dict[str, str]) -> AsyncIterator[bytes]:
    size, total = snapshot.path.stat().st_size, hashlib.sha256()
    yield _header(REGISTRY, size)
    with snapshot.path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, PIECE):
            total.update(data)
            yield data
    yield bytes(-size % tarfile.BLOCKSIZE)
    sums[REGISTRY] = total.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.PAX_FORMAT)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def check(path: Path) -> Manifest:
    """Read all of it once, and compare every member with its sum.

    Raises:  InvalidRequest: it is not there, no backup, cut short, damaged, or of a newer Ragline.
    """
    sums: dict[str, str] = {}
    manifest, end = None, None
    for member in members(path):
        if member.name == END:
            end = b"".join(member.pieces)
            continue
        total = hashlib.sha256()
        for piece in member.pieces:
            if manifest is None:
                manifest = _manifest(path, member.name, piece)
            total.update(piece)
        sums[member.name] = total.hexdigest()
    if manifest is None:
        raise _foreign(path)
    if end is None:
        raise _cut_short(path)
    try:
        told = dict(json.loads(end))
    except (ValueError, TypeError) as error:
        raise _damaged(path, END) from error
    for name in sorted(told.keys() | sums.keys()):
        if told.get(name) != sums.get(name):
            raise _damaged(path, name)
    return manifest


def members(path: Path) -> Iterator[Member]:
    """In order; names are relative and stay below where they are put. Raises InvalidRequest, as `check`."""
    begun = False
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if not _is_ours(info):
                    raise _foreign(path)
                begun = True
                yield Member(info.name, _pieces(path, tar, info))
    except tarfile.ReadError as error:
        # tarfile has many words for a file that ends in a header, and none of its own for them
        raise (_cut_short if begun else _foreign)(path) from error
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be read: {error.strerror or error}.", next_step="Name the file that `ragline backup` made."
        ) from error


def _pieces(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    file, left = tar.extractfile(info), info.size
    assert file, "only regular files are members"
    while left:
        try:
            piece = file.read(min(left, PIECE))
        except tarfile.ReadError as error:
            raise _cut_short(path) from error
        if not piece:
            raise _cut_short(path)
        left -= len(piece)
        yield piece


def _is_ours(info: tarfile.TarInfo) -> bool:
    parts = info.name.split("/")
    return info.isreg() and (
        info.name in (MANIFEST, REGISTRY, END) or (parts[0] == "blobs" and not {"", ".", ".."}.intersection(parts))
    )


def _manifest(path: Path, name: str, data: bytes) -> Manifest:
    if name != MANIFEST:
        raise _foreign(path)
    try:
        told = json.loads(data)
        if told["kind"] != KIND:
            raise _foreign(path)
        if told["format"] > FORMAT or told["schema"] not in SCHEMA.known():
            raise InvalidRequest(
                f"{path} was made by Ragline {told['ragline']}, which is newer than this one, {__version__}.",
                next_step=f"Restore it with Ragline {told['ragline']} or a newer one.",
            )
        return Manifest(**{name: told[name] for name in Manifest.__dataclass_fields__})
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(path) from error


def _foreign(path: Path) -> InvalidRequest:
    return InvalidRequest(f"{path} is no Ragline backup.", next_step="Name the file that `ragline backup` made.")


def _cut_short(path: Path) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is cut short: its end is missing.",
        next_step="Copy it again, or use another backup; nothing was restored.",
    )


def _damaged(path: Path, name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path} is damaged: {name} is not what was written.",
        next_step="Copy it again, or use another backup; nothing was restored.",
    )
