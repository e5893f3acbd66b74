"""A zip of XML parts, as Word, PowerPoint, OpenDocument and EPUB write it: opened and read inside limits.

No library: an object model loads everything to show a part of it. The tree of one part is what each reader walks.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers import expat

from ragline.errors import DocumentRejected, Reason

MAX_PART_BYTES = 256 << 20
"""Largest part, unpacked, and the most all parts read may unpack to. An honest text of 20 million characters is below; a
bomb is far above."""

_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/")
"""Names in ISO's strict variant, which differ from the usual ones by this alone."""

_PROLOG_BYTES = 64 << 10
_NO_TITLES = ("word document", "powerpoint presentation", "presentation", "untitled", "document")

BROKEN = (zipfile.BadZipFile, ElementTree.ParseError, KeyError, EOFError, zlib.error, NotImplementedError, OSError)
"""What reading a damaged package raises."""


class Package:
    """An open package. `what` names it in messages: "The Word document"."""

    def __init__(self, archive: zipfile.ZipFile, what: str) -> None:
        self._archive = archive
        self._what = what
        self._left = MAX_PART_BYTES
        self.names = frozenset(archive.namelist())

    def read(self, path: str) -> bytes:
        """Raises KeyError (no such part), DocumentRejected: ENCRYPTED, TOO_LARGE; or one of BROKEN."""
        info = self._archive.getinfo(path)
        if info.flag_bits & 1:
            raise encrypted(self._what)
        if info.file_size <= self._left:
            with self._archive.open(info) as part:  # the size above is the file's own word; this is the limit
                raw = part.read(self._left + 1)
            self._left -= len(raw)
            if self._left >= 0:
                return raw
        raise DocumentRejected(
            Reason.TOO_LARGE,
            f"{self._what} unpacks to more than {MAX_PART_BYTES >> 20} MiB.",
            next_step="Split it, or save it as PDF.",
        )

    def xml(self, path: str) -> ElementTree.Element:
        """The tree of a part. Raises as `read`, and ParseError where it is not XML or declares entities."""
        return tree(_STRICT.sub(rb"http://schemas.openxmlformats.org/\1/2006/", self.read(path)))

    def find(self, path: str) -> ElementTree.Element | None:
        """As `xml`; None where there is no such part."""
        return self.xml(path) if path in self.names else None

    def related(self, path: str) -> dict[str, tuple[str, str]]:
        """The relations of the part at `path` ("": of the package): id → (type, path of the other part)."""
        folder, name = posixpath.split(path)
        relations = self.find(posixpath.join(folder, "_rels", f"{name}.rels"))
        found: dict[str, tuple[str, str]] = {}
        for relation in relations if relations is not None else ():
            if relation.get("TargetMode") != "External":
                target = unquote(relation.get("Target", ""))
                target = target.lstrip("/") if target.startswith("/") else posixpath.join(folder, target)
                found[relation.get("Id", "")] = (relation.get("Type", ""), posixpath.normpath(target))
        return found

    def title(self) -> str | None:
        """What the properties of an Office document say, unless a program put it there."""
        core = self.find("docProps/core.xml")
        title = core.findtext("{http://purl.org/dc/elements/1.1/}title") if core is not None else None
        return title if title and title.strip().lower() not in _NO_TITLES else None


@contextmanager
def opened(data: bytes, what: str, *, mend: str) -> Iterator[Package]:
    """Raises DocumentRejected: DAMAGED for whatever reading inside raises of BROKEN. `mend` is the next step then."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield Package(archive, what)
    except BROKEN as error:
        raise DocumentRejected(Reason.DAMAGED, f"{what} is damaged or cut short.", next_step=mend) from error


def encrypted(what: str) -> DocumentRejected:
    return DocumentRejected(
        Reason.ENCRYPTED, f"{what} is encrypted.", next_step="Remove the password and upload it again."
    )


def tree(raw: bytes | str) -> ElementTree.Element:
    """The tree of an XML text without entities of its own. Raises ParseError."""
    if declares_entities(raw):  # never in an honest package; with them come bombs and other people's files
        raise ElementTree.ParseError("entity declaration")
    return ElementTree.fromstring(raw)


def declares_entities(raw: bytes | str) -> bool:
    """Whether the document type declaration, if any, declares an entity: looked at in what stands before the root."""
    found = False

    def declared(*_: object) -> None:
        nonlocal found
        found = True
        raise _Seen

    def begun(*_: object) -> None:
        raise _Seen

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = declared
    parser.StartElementHandler = begun
    try:
        for start in range(0, len(raw), _PROLOG_BYTES):
            parser.Parse(raw[start : start + _PROLOG_BYTES], False)
    except (_Seen, expat.ExpatError):
        pass
    return found


class _Seen(Exception):
    """Enough has been read."""
