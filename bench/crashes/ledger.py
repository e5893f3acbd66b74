"""What each document must be: the harness's own books, kept from the answers to its requests and from nothing else.

A change that was answered must hold for ever after. A request that was in flight at the kill may have come through or not:
the document must then be either, and what is found is written down.
"""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

TEAM = "team"
"""The group that one of the two readers is in; every restricted document is of it, or of `BOARD`."""
BOARD = "board"

LONG_ONE_IN = 25
"""One document in so many has several chunks, so that half of a document can be seen; the rest is one line."""

ARCHIVE_ONE_IN = 20
"""One in so many is a ZIP: with texts in it, often a ZIP in the ZIP, and a mail with an attachment."""

DROP = 0.3
"""Share of the changes of an archive that delete one of its files by itself."""


@dataclass(frozen=True, slots=True)
class Version:
    """A document as a client wants it. `edition` None: deleted. `dropped`: files in it that were deleted by themselves."""

    number: int
    edition: int | None
    groups: tuple[str, ...] = ()
    year: int = 2000
    dropped: tuple[str, ...] = ()

    @property
    def token(self) -> str:
        """A word that stands in this edition of this document, and nowhere else."""
        return token(self.number, self.edition or 0)

    @property
    def name(self) -> str:
        return f"doc-{self.number:06}.{'zip' if self.is_archive else 'txt'}"

    @property
    def is_archive(self) -> bool:
        return self.number % ARCHIVE_ONE_IN == 3

    @property
    def data(self) -> bytes:
        return zipped(self._files) if self.is_archive else self.text.encode()

    @property
    def text(self) -> str:
        """Of a document that is no archive."""
        sentences = 60 if self.number % LONG_ONE_IN == 0 else 1
        return " ".join(self._sentence(n) for n in range(sentences))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def inside(self) -> Mapping[str, bytes]:
        """Uri → bytes of every document that lies in it, at any depth, but those that were deleted by themselves."""
        if self.edition is None or not self.is_archive:
            return {}
        return dict(_inside(self.name, {name: data for name, data in self._files.items() if name not in self.dropped}))

    @property
    def _files(self) -> Mapping[str, bytes]:
        """An edition has some files of the one before, in other words, some new ones, and lacks others."""
        edition = self.edition or 0
        files = {f"part-{n}.txt": self._sentence(n).encode() for n in range(edition % 3, edition % 3 + 3)}
        if edition % 2:
            files["inner.zip"] = zipped({f"deep-{n}.txt": self._sentence(n).encode() for n in range(2)})
        if edition % 3 == 1:
            files["note.eml"] = _mail(self._sentence(7), self._sentence(8))
        return files

    def _sentence(self, n: int) -> str:
        return f"Record {self.token} tells of herons in part {n}."


@dataclass(slots=True)
class Entry:
    """known: the last acknowledged version.   pending: what is asked for, or was when the process died.
    sequence: of the last acknowledged change.   editions: how many there have been, so that each is new.
    inside: uri → id of what lay in it when it was last looked at.
    """

    known: Version
    pending: Version | None = None
    sequence: int = 0
    editions: int = 0
    id: str = ""
    inside: Mapping[str, str] = field(default_factory=dict)

    @property
    def may_be(self) -> tuple[Version, ...]:
        return (self.known,) if self.pending is None else (self.known, self.pending)


@dataclass(slots=True)
class Ledger:
    entries: dict[int, Entry] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    """Changed, or asked to be, since the last check."""

    def begin(self, version: Version) -> None:
        """A request for `version` goes out."""
        entry = self.entries.setdefault(version.number, Entry(Version(version.number, None)))
        entry.pending = version
        entry.editions = max(entry.editions, version.edition or 0)
        self.touched.add(version.number)

    def acknowledge(self, version: Version, sequence: int, id: str) -> None:
        entry = self.entries[version.number]
        entry.known, entry.pending, entry.sequence, entry.id = version, None, sequence, id

    def in_flight(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.pending is not None]

    def next_version(self, number: int, dice: random.Random) -> Version:
        """A change of document `number`: new bytes, other words, other groups, gone, or back."""
        entry = self.entries[number]
        now = entry.known
        if now.edition is None:
            back = dice.random() < 0.5 and entry.editions  # with the bytes it had, or with new ones
            edition = entry.editions if back else entry.editions + 1
            return Version(number, edition, dice.choice([(), (TEAM,)]), now.year + 1)
        change = dice.choices(("bytes", "words", "groups", "delete"), weights=(45, 15, 25, 15))[0]
        direct = [name for name in now._files if name not in now.dropped] if now.is_archive else []
        if direct and dice.random() < DROP:
            return replace(now, dropped=(*now.dropped, dice.choice(direct)))
        if change == "bytes":
            return replace(now, edition=entry.editions + 1, dropped=())
        if change == "words":
            return replace(now, year=now.year + 1)
        if change == "groups":
            others = [groups for groups in ((), (TEAM,), (BOARD,)) if groups != now.groups]
            return replace(now, groups=dice.choice(others))
        return replace(now, edition=None, dropped=())


def zipped(files: Mapping[str, bytes]) -> bytes:
    """The same bytes for the same files, whenever it is made."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return whole.getvalue()


def _inside(uri: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for name, data in files.items():
        yield f"{uri}!/{name}", data
        if name.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as inner:
                yield from _inside(f"{uri}!/{name}", {one: inner.read(one) for one in inner.namelist()})
        if name.endswith(".eml"):
            attached = data.partition(b"attachment; filename=attached.txt\n\n")[2].partition(b"\n--parts--")[0]
            yield f"{uri}!/{name}!/attached.txt", attached


def _mail(body: str, attached: str) -> bytes:
    return (
        "From: heron@example.com\nTo: otter@example.com\nSubject: Birds\nMIME-Version: 1.0\n"
        "Content-Type: multipart/mixed; boundary=parts\n\n"
        f"--parts\nContent-Type: text/plain; charset=utf-8\n\n{body}\n"
        "--parts\nContent-Type: text/plain; charset=utf-8\nContent-Disposition: attachment; filename=attached.txt\n\n"
        f"{attached}\n--parts--\n"
    ).encode()


def token(number: int, edition: int) -> str:
    return f"d{number}e{edition}"


def editions_before(version: Version, editions: int) -> Iterable[str]:
    """Tokens of every edition but the one that serves."""
    return (token(version.number, n) for n in range(1, editions + 1) if n != version.edition)
