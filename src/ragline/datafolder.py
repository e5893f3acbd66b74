"""The data folder of the embedded engines belongs to one process at a time.

Whoever holds it writes into the lock file where it answers, so that the CLI goes through it instead of failing. The
token in there makes the reader the owner: who can read the folder can read all of it anyway, so the file is as private
as the folder.

A folder that a restore is filling belongs to restores alone until one has come to its end: half of it looks like a service
with fewer documents.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ragline.errors import ConfigurationError, DataFolderInUse
from ragline.settings import Settings

PARTS = ("blobs", "keywords", "vectors")


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    url: str | None
    token: str


class DataFolder:
    """Raises ConfigurationError: the folder cannot be made or written."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = FileLock(self.path / "lock", blocking=False)
        self._card = self.path / "holder.json"
        self._half = self.path / "restoring"

    def take(self, token: str, *, to_restore: bool = False) -> None:
        """Hold the folder until `release` or the end of the process.

        Raises:  DataFolderInUse.  ConfigurationError: a restore into it was cut short, and this is not another one.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.acquire()
            if self.half_restored and not to_restore:
                self._lock.release()
                raise ConfigurationError(
                    f"A restore into {self.path} did not come to its end: what is there is not whole.",
                    next_step="Run the same `ragline restore FILE` again, or choose another folder with --data-dir.",
                )
            for part in PARTS:  # ours alone, also in a folder that others may read
                (self.path / part).mkdir(exist_ok=True, mode=0o700)
            (self.path / "registry.sqlite").touch(mode=0o600)
        except Timeout as error:
            holder = self.holder()
            where = f" by process {holder.pid}" if holder and holder.pid else ""
            where += f", which answers at {holder.url}" if holder and holder.url else ""
            raise DataFolderInUse(
                f"The data folder {self.path} is in use{where}.",
                next_step="Use that one with --url, stop it, or choose another folder with --data-dir.",
                url=holder.url if holder else None,
            ) from error
        except OSError as error:
            raise ConfigurationError(
                f"The data folder {self.path} cannot be used: {error.strerror}.",
                next_step="Choose another one with --data-dir or RAGLINE_DATA_DIR.",
            ) from error
        self.announce(Holder(os.getpid(), None, token))

    @property
    def half_restored(self) -> bool:
        """Whether it holds nothing but what a restore has brought that did not come to its end."""
        return self._half.exists()

    def begin_restore(self) -> None:
        """From now on only restores may take the folder; durable on return."""
        self._half.touch(mode=0o600)
        self._sync()

    def end_restore(self) -> None:
        """It is a folder like any other; durable on return, and everything before it as well."""
        self._sync()
        self._half.unlink()
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def announce(self, holder: Holder) -> None:
        """Write who holds the folder and where it answers."""
        half = self._card.with_suffix(".half")
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(holder), file)
        half.replace(self._card)

    def holder(self) -> Holder | None:
        """Who holds the folder, as it says itself; None when nobody does."""
        probe = FileLock(self.path / "lock", blocking=False)
        try:
            if not self.path.is_dir():
                return None
            probe.acquire()
            probe.release()
        except Timeout:
            try:
                return Holder(**json.loads(self._card.read_text()))
            except (OSError, ValueError, TypeError):
                return Holder(0, None, "")
        except OSError:
            return None
        return None

    def release(self) -> None:
        self._card.unlink(missing_ok=True)
        self._lock.release()


@contextmanager
def held(settings: Settings, token: str) -> Iterator[DataFolder | None]:
    """The data folder, ours until the block ends; None where no engine stands in it. Raises as `take`."""
    if not settings.embedded:
        yield None
        return
    folder = DataFolder(settings.data_dir)
    folder.take(token)
    try:
        yield folder
    finally:
        folder.release()
