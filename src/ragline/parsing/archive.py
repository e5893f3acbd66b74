"""ZIP, TAR, and what gzip, bzip2 and xz pack: each file inside becomes a document of its own.

Nothing is written to a disk, so a path in an archive is only a name. What is unpacked is counted as it comes, whatever
the archive says of itself; an archive inside is one more member, opened when its own turn comes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, cast

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.decode import decode
from ragline.parsing.detect import detect
from ragline.parsing.formats import FORMATS
from ragline.parsing.outline import Outline, too_many_members
from ragline.parsing.package import BROKEN, encrypted

_WHAT = "The archive"
_OVER = "over the limit"
_NOISE = re.compile(r"(?:^|/)(?:__MACOSX/|\.DS_Store$|Thumbs\.db$|desktop\.ini$|\._)")
"""What file managers add, and nobody means to search."""

_DAMAGED = (*BROKEN, tarfile.TarError, lzma.LZMAError, ValueError, IndexError, RuntimeError)
"""What reading a damaged archive raises."""

_PACKERS: tuple[tuple[bytes, tuple[str, ...], Callable[[IO[bytes]], object]], ...] = (
    (b"\x1f\x8b", (".gz", ".tgz", ".z"), lambda stream: gzip.GzipFile(fileobj=stream)),
    (b"BZh", (".bz2", ".tbz2"), bz2.BZ2File),
    (b"\xfd7zXZ", (".xz", ".txz"), lzma.LZMAFile),
)
_TAR_BLOCK = 512
_READ_BYTES = 1 << 20


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: ENCRYPTED, DAMAGED, TOO_LARGE, EMPTY, UNSUPPORTED (nothing in it can be read)."""
    try:
        if data.startswith(b"PK"):
            _zip(data, out)
        else:
            _packed(data, out)
    except _DAMAGED as error:
        if not out.members:
            raise DocumentRejected(
                Reason.DAMAGED, f"{_WHAT} is damaged or cut short.", next_step="Pack it again and upload that copy."
            ) from error
        out.leave_out("the rest", "the archive is damaged or cut short from here on")
    _check(out)


def _zip(data: bytes, out: Outline) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [info for info in archive.infolist() if not info.is_dir() and not _NOISE.search(info.filename)]
        locked = sum(info.flag_bits & 1 for info in files)
        if locked and locked == len(files):
            raise encrypted(_WHAT)
        for info in files:
            name = _zip_name(info)
            if info.flag_bits & 1:
                out.leave_out(name, "encrypted; remove the password")
            elif info.file_size > out.limits.max_member_bytes:
                out.leave_out(name, f"{info.file_size:,} bytes are {_OVER}")
            else:
                try:
                    with archive.open(info) as packed:
                        out.member(name, _read(packed, out))
                except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError):
                    out.leave_out(name, "damaged, or packed in an unusual way")


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Names that do not say they are UTF-8 are in whatever encoding the packer's system had."""
    return info.filename if info.flag_bits & 0x800 else decode(info.filename.encode("cp437", "replace"))


def _packed(data: bytes, out: Outline) -> None:
    stream: IO[bytes] = io.BytesIO(data)
    name = out.name.rsplit("/", 1)[-1]
    packer = next((one for one in _PACKERS if data.startswith(one[0])), None)
    if packer is not None:
        stream = cast(IO[bytes], packer[2](stream))
        name = next((name[: -len(end)] for end in packer[1] if name.lower().endswith(end)), name)
    # tar headers and padding come on top of what the members hold
    stream = cast(
        IO[bytes], _Bounded(stream, out, most=out.members_left_bytes + 4 * _TAR_BLOCK * out.limits.max_members)
    )
    start = stream.read(_TAR_BLOCK)
    stream = cast(IO[bytes], _Begun(start, stream))
    if start[257:262] != b"ustar" and not name.lower().endswith(".tar"):
        out.member(name or "content", _read(stream, out))
        return
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            if not info.isfile() or _NOISE.search(info.name):
                continue
            if info.size > out.limits.max_member_bytes:
                out.leave_out(info.name, f"{info.size:,} bytes are {_OVER}")
            elif (packed := archive.extractfile(info)) is not None:
                out.member(info.name, _read(packed, out))


def _read(packed: IO[bytes], out: Outline) -> bytes:
    """All of one member. Raises DocumentRejected(TOO_LARGE) once it is more than the members may hold together."""
    most, parts, size = out.members_left_bytes, list[bytes](), 0
    while part := packed.read(_READ_BYTES):
        size += len(part)
        if size > most:
            raise too_many_members(out.limits)
        parts.append(part)
    return b"".join(parts)


def _check(out: Outline) -> None:
    """Refuse an archive nothing of which can be read, so that it fails with its reason, and not each file of it."""
    members = out.members
    if not members:
        first = out.left_out[0] if out.left_out else ""
        reason = Reason.TOO_LARGE if _OVER in first else Reason.DAMAGED if first else Reason.EMPTY
        raise DocumentRejected(
            reason,
            f"{_WHAT} holds no files{f': {first}' if first else ''}.",
            next_step="Pack it again with files in it.",
        )
    refusals = []
    for name, data in members:
        try:
            detect(data, name=name, media_type=None, formats=FORMATS)
        except DocumentRejected as error:
            refusals.append(error)
    if len(refusals) == len(members):
        raise DocumentRejected(
            refusals[0].reason,
            f"{_WHAT} holds nothing that can be read ({len(members)} files). {refusals[0].message}",
            next_step=refusals[0].next_step,
        )


class _Bounded:
    """A stream that refuses to give more than `most` bytes: what unpacks without end is a bomb."""

    def __init__(self, stream: IO[bytes], out: Outline, *, most: int) -> None:
        self._stream = stream
        self._limits = out.limits
        self._left = most

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._left:
            size = self._left + 1
        got = self._stream.read(size)
        self._left -= len(got)
        if self._left < 0:
            raise too_many_members(self._limits)
        return got


class _Begun:
    """A stream whose first bytes were read already."""

    def __init__(self, start: bytes, stream: IO[bytes]) -> None:
        self._start = start
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not self._start:
            return self._stream.read(size)
        if size < 0:
            got, self._start = self._start + self._stream.read(), b""
        else:
            got, self._start = self._start[:size], self._start[size:]
        return got
