"""Which format a document truly is: by its content first, then by its name's ending, then by its media type.

A wrong ending is no error: a PDF called `report.txt` is read as the PDF it is. What no format reads is refused with
the name of what it looks like, so that its owner knows what to do.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Collection, Sequence

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.decode import SAMPLE_BYTES, wide_codec
from ragline.parsing.formats import Format

HEAD_BYTES = 1024

_KNOWN: tuple[tuple[bytes, str], ...] = (
    (b"RIFF", "a RIFF file (WAV or AVI)"),
    (b"ID3", "an MP3 recording"),
    (b"\xff\xfb", "an MP3 recording"),
    (b"OggS", "an Ogg recording"),
    (b"fLaC", "a FLAC recording"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM film"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"SQLite format 3", "an SQLite database"),
    (b"wOFF", "a web font"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_PACKAGE = "EncryptedPackage"
_CONTENT_TYPES = "[Content_Types].xml"
"""What tells an Office package from an archive with a folder of that name."""
_PDF_SIGNS = (b"endobj", b"startxref", b"trailer")


def detect(data: bytes, *, name: str, media_type: str | None, formats: Sequence[Format]) -> Format:
    """The format that reads `data`.

    Raises:  DocumentRejected: EMPTY, ENCRYPTED (an Office file under a password), UNSUPPORTED.
    """
    declared = (media_type or "").partition(";")[0].strip().lower()
    for f in formats:
        if not f.endings and declared in f.media_types:
            return f
    if not data or data.isspace():
        raise DocumentRejected(
            Reason.EMPTY, "The document is empty: it has no bytes but white space.", next_step="Upload its content."
        )
    claimed = _claimed(name, declared, formats)
    found = _by_content(data, formats)
    if (
        found is not None
        and found.container
        and claimed is not None
        and _is_package(claimed)
        and data.startswith(b"PK")
    ):
        return claimed  # its own parser says what is wrong with it
    if found is not None:
        return found
    known = _looks_like(data)
    if known is None and not _is_binary(data):
        if claimed is not None and not (claimed.binary and not _pieces_of_pdf(data, claimed)):
            return claimed
        return next(f for f in formats if "text/plain" in f.media_types)
    if claimed is not None and claimed.binary and (data.startswith(_OLE) if claimed.streams else known is None):
        return claimed  # a broken file of that kind: its own parser says what is left of it
    raise DocumentRejected(
        Reason.UNSUPPORTED,
        f"The document looks like {known or 'binary data'}, which cannot be read.",
        next_step="Convert it to PDF, DOCX, HTML or text; the documentation's page on formats lists all that are read.",
    )


def _by_content(data: bytes, formats: Sequence[Format]) -> Format | None:
    if data.startswith(_OLE):
        return _by_streams(data, formats)
    head = data[:HEAD_BYTES]
    binary = [f for f in formats if f.binary and f.magic and re.match(f.magic, head, re.DOTALL)]
    if binary and not binary[0].container:
        return binary[0]
    if data.startswith(b"PK"):
        paths = _paths(data, formats)
        inside = (f for f in formats if f.member and any(path.startswith(f.member) for path in paths))
        package = next(inside, None) if _CONTENT_TYPES in paths else None
        return package or next(iter(binary), None)
    if binary:
        return binary[0]
    start = _ascii_start(head)
    texts = [f for f in formats if not f.binary and f.magic]
    declared = b"<?xml" if start[1] else start[0]
    return next((f for text in (start[0], declared) for f in texts if re.match(f.magic, text)), None)


def _by_streams(data: bytes, formats: Sequence[Format]) -> Format | None:
    names = _streams(data)
    if _ENCRYPTED_PACKAGE in names:
        raise DocumentRejected(
            Reason.ENCRYPTED,
            "The document is an Office file under a password.",
            next_step="Remove the password and upload it again.",
        )
    return next((f for f in formats if names.intersection(f.streams)), None)


def _streams(data: bytes) -> frozenset[str]:
    """Names at the root of an OLE file; of one that is cut short, all that can be spelled out in it."""
    import olefile  # only for files from before 2007

    try:
        with olefile.OleFileIO(io.BytesIO(data)) as ole:
            return frozenset(path[0] for path in ole.listdir())
    except (OSError, ValueError, IndexError, TypeError, AttributeError, struct.error):
        words = re.findall(rb"(?:[\x20-\x7e]\0){4,}", data)
        return frozenset(word.decode("utf-16-le") for word in words)


def _paths(data: bytes, formats: Sequence[Format]) -> Collection[str]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            return frozenset(package.namelist())
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):  # cut short: paths stand before their bytes
        signs = (_CONTENT_TYPES, *(f.member for f in formats if f.member))
        return frozenset(sign for sign in signs if sign.encode() in data)


def _ascii_start(head: bytes) -> tuple[bytes, bool]:
    """The first letters of a text in any encoding, lower case, past mark, white space, XML declaration and comments.

    And whether there was such a declaration.
    """
    start = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe").lstrip().lower()
    declared = start.startswith(b"<?xml")
    for opening, closing in ((b"<?xml", b"?>"), (b"<!--", b"-->")):
        if start.startswith(opening):
            start = start.partition(closing)[2].lstrip()
    return start, declared


def _claimed(name: str, declared: str, formats: Sequence[Format]) -> Format | None:
    last = name.replace("\\", "/").rsplit("/", 1)[-1].lower()
    for part in (last, last.partition("?")[0], last.partition("#")[0]):  # a name first, a URL if that says nothing
        ending = part.rpartition(".")[2] if "." in part else ""
        for f in formats:
            if ending in f.endings:
                return f
    return next((f for f in formats if declared in f.media_types), None)


def _is_package(format: Format) -> bool:
    """Whether files of this format are zips."""
    return bool(format.member) or format.magic.startswith(b"PK")


def _pieces_of_pdf(data: bytes, claimed: Format) -> bool:
    return b"%PDF" in claimed.magic and any(sign in data for sign in _PDF_SIGNS)


def _looks_like(data: bytes) -> str | None:
    for magic, words in _KNOWN:
        if data.startswith(magic):
            return words
    if data[4:8] == b"ftyp":
        return "an MP4 film or recording"
    return "an Office file of another kind" if data.startswith(_OLE) else None


def _is_binary(data: bytes) -> bool:
    """Whether `data` is no text in any encoding: too many control characters, as no one-byte or multi-byte text has."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or wide_codec(data) is not None:
        return False
    sample = data[:SAMPLE_BYTES]
    controls = sum(sample.count(c) for c in range(32) if c not in b"\t\n\x0b\x0c\r\x1b") + sample.count(127)
    if controls <= 0.02 * len(sample):
        return False
    try:  # text with stray NULs is text; noise is never valid UTF-8 for long
        sample[: len(sample) - 4 if len(data) > len(sample) else len(sample)].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start < len(sample) - 8 or len(sample) < 8
    return controls > 0.3 * len(sample)
