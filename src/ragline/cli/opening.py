"""How the bytes of a file are read, and by which words one state of it is told from another.

The words (a version) are taken from the open file before its first byte is read: whatever changes it afterwards makes
another version of it, so a sync that finds the same version again need not read the file (docs/adr/0007).
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ragline.errors import RaglineError

COARSE_NS, FINE_NS = 2_000_000_000, 100_000_000
"""How old the last change of a file must be for its times to tell a later one: FAT counts in steps of 2 s; kernels that
count in nanoseconds read a clock that stands still for up to 10 ms."""

IN_MEMORY = 8 << 20
"""Bytes of a remote file that are kept in memory; a longer one goes through a temporary file, so that it can be sent again."""


class Opened(NamedTuple):
    """`version` is empty where the next state of the file might look the same."""

    content: bytes | BinaryIO
    version: str


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on an fsspec file system, in the version that its listing told."""

    fs: Any
    path: str
    size: int
    version: str

    def open(self) -> Opened:
        """Raises OSError, as for a file on this machine: what is wrong with one is no reason to stop."""
        from ragline.cli.remote import translated

        try:
            with translated(self.path):
                return Opened(self._read(), self.version)
        except RaglineError as error:
            raise OSError(str(error)) from error

    def _read(self) -> bytes | BinaryIO:
        if self.size <= IN_MEMORY:
            return bytes(self.fs.cat_file(self.path))
        spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by who reads it
        try:
            with self.fs.open(self.path, "rb", block_size=IN_MEMORY) as far:
                shutil.copyfileobj(far, spool, IN_MEMORY)
            spool.seek(0)
        except BaseException:
            spool.close()
            raise
        return spool


class Steady(io.RawIOBase):
    """A file as long as it was when it was opened: what is appended meanwhile is left for the next time."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            return self._file.seek(self._size + offset)
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Raises OSError: the file has become shorter."""
        left = max(0, self._size - self._file.tell())
        data = self._file.read(left if size < 0 else min(size, left))
        if not data and left and size:
            raise OSError(f"it lost {left} bytes while it was read; ingest it again once it rests")
        return data

    def close(self) -> None:
        self._file.close()
        super().close()


def open_file(path: Path) -> Opened:
    """Raises OSError."""
    looked_ns = time.time_ns()
    file = path.open("rb")
    known = os.fstat(file.fileno())
    return Opened(Steady(file, known.st_size), version_of(known, looked_ns))  # type: ignore[arg-type]  # as above


def version_of(known: os.stat_result, looked_ns: int | None = None) -> str:
    """Size, and the times of the last change of content and of anything (so that a kept `mtime` does not hide one).

    `looked_ns`: when; with it, the version is empty if a change right after that moment could leave it as it is.
    """
    changed = max(known.st_mtime_ns, known.st_ctime_ns)
    coarse = known.st_mtime_ns % 1_000_000_000 == 0 and known.st_ctime_ns % 1_000_000_000 == 0
    if looked_ns is not None and looked_ns - changed <= (COARSE_NS if coarse else FINE_NS):
        return ""
    return f"{known.st_size}-{known.st_mtime_ns}-{known.st_ctime_ns}"
