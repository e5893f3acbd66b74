"""Immutable bytes by path, in a folder or anywhere fsspec reaches.

A folder is written by us, because fsspec's local writer neither syncs nor renames: an accepted document must survive
power loss, and a reader must never see half a blob.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import structlog

from ragline.background import Background, Queries
from ragline.errors import ConfigurationError, EngineUnavailable
from ragline.object_blobs import FsspecBlobs, missing, not_installed
from ragline.protocols import Blobs
from ragline.types import BlobEntry

T = TypeVar("T")

log = structlog.get_logger()


def open_blobs(url: str, background: Background | None = None) -> Blobs:
    """`url`: a path, ``file:///…``, or a URL of any fsspec file system.

    Raises:  MissingDependency: the package behind the scheme is not installed.  ConfigurationError: no such scheme.
    """
    scheme, _, rest = url.partition("://")
    if not rest or scheme == "file":
        return FolderBlobs(Path(rest or url), background or Background(Queries()))
    try:
        return FsspecBlobs(url)
    except ImportError as error:
        raise not_installed(scheme, error) from error
    except ValueError as error:
        raise ConfigurationError(f"blobs: {error}.", next_step="Use a path or a URL that fsspec knows.") from error


class FolderBlobs:
    def __init__(self, folder: Path, background: Background) -> None:
        self._folder = folder.absolute()
        self._background = background

    async def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        await self._call(self._put, self._folder / path, data, durable)

    async def get(self, path: str) -> bytes:
        try:
            return cast(bytes, await self._call((self._folder / path).read_bytes))
        except FileNotFoundError as error:
            raise missing(path) from error

    async def paths(self, prefix: str) -> list[str]:
        def work() -> list[str]:
            found = (self._folder / prefix).rglob("*")
            return sorted(p.relative_to(self._folder).as_posix() for p in found if p.is_file())

        return cast("list[str]", await self._call(work))

    async def entries(self, prefix: str) -> list[BlobEntry]:
        def work() -> list[BlobEntry]:
            found = []
            for folder, _, names in os.walk(self._folder / prefix):
                for name in names:
                    path = Path(folder, name)
                    with suppress(FileNotFoundError):  # deleted since the folder was read
                        at = path.stat()
                        found.append(BlobEntry(path.relative_to(self._folder).as_posix(), at.st_size, at.st_mtime))
            return sorted(found, key=lambda entry: entry.path)

        return cast("list[BlobEntry]", await self._call(work))

    async def folders(self) -> list[str]:
        def work() -> list[str]:
            if not self._folder.exists():
                return []
            return sorted(path.name for path in self._folder.iterdir() if path.is_dir())

        return cast("list[str]", await self._call(work))

    async def delete(self, prefix: str) -> None:
        def work() -> None:
            target = self._folder / prefix
            if not target.is_dir():
                target.unlink(missing_ok=True)
            while target.is_dir():
                with suppress(FileNotFoundError):  # another deletes in there as well: go on with what is left
                    shutil.rmtree(target)

        await self._call(work)

    @staticmethod
    def _put(target: Path, data: bytes, durable: bool) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            with half.open("wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            half.replace(target)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
        if durable:
            _sync_folder(target.parent)

    async def _call(self, function: Callable[..., object], *args: object) -> object:
        try:
            return await self._background.run(partial(function, *args))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise EngineUnavailable(
                f"The blob folder did not take the call: {error.strerror or error}.",
                next_step="Check the free space and the permissions of the data folder.",
                engine="blobs:folder",
            ) from error


class KeepingBlobs:
    """Blobs that can be made to stay for a while: a backup copies what the registry named when it began."""

    def __init__(self, inner: Blobs) -> None:
        self._inner = inner
        self._keepers = 0
        self._due: dict[str, None] = {}
        """What is deleted for everybody but its keepers, in the order in which it goes."""
        self._deleting: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[Blobs]:
        """Until the block ends nothing is deleted; what was to be is deleted then. A crash leaves it to `doctor`.

        Yields everything as it lies; whoever else lists the blobs does not see those that are to be deleted.
        """
        self._keepers += 1
        try:
            yield self._inner
        finally:
            self._keepers -= 1
            if not self._keepers and (self._deleting is None or self._deleting.done()):
                self._deleting = asyncio.create_task(self._delete_due())  # whoever kept them may be cancelled by now

    async def aclose(self) -> None:
        """Wait until what was kept is deleted."""
        if self._deleting is not None:
            await self._deleting

    async def _delete_due(self) -> None:
        while self._due and not self._keepers:  # a new keeper ends it, and begins it again
            prefix = next(iter(self._due))
            try:
                await self._inner.delete(prefix)
            except Exception as error:  # noqa: BLE001 (the others go all the same, and the audit finds this one)
                log.warning("blob left behind", blob=prefix, error=repr(error))
            self._due.pop(prefix)

    async def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        await self._inner.put(path, data, durable=durable)

    async def get(self, path: str) -> bytes:
        return await self._inner.get(path)

    async def paths(self, prefix: str) -> list[str]:
        return await self._without_due(await self._inner.paths(prefix), str)

    async def entries(self, prefix: str) -> list[BlobEntry]:
        return await self._without_due(await self._inner.entries(prefix), lambda entry: entry.path)

    async def folders(self) -> list[str]:
        return await self._without_due(await self._inner.folders(), str)

    async def delete(self, prefix: str) -> None:
        if self._keepers:
            self._due[prefix] = None
        else:
            await self._inner.delete(prefix)

    async def _without_due(self, found: list[T], path: Callable[[T], str]) -> list[T]:
        if not self._due:
            return found
        due = frozenset(self._due)
        return await asyncio.to_thread(lambda: [one for one in found if not _covered(path(one), due)])


def _covered(path: str, prefixes: frozenset[str]) -> bool:
    """Whether `path` or a folder that it lies in is one of `prefixes`."""
    while path:
        if path in prefixes:
            return True
        path = path.rpartition("/")[0]
    return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
