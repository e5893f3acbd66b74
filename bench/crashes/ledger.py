"""What each document must be: the harness's own books, kept from the answers to its requests and from nothing else.

A change that was answered must hold for ever after. A request that was in flight at the kill may have come through or not:
the document must then be either, and what is found is written down.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

TEAM = "team"
"""The group that one of the two readers is in; every restricted document is of it, or of `BOARD`."""
BOARD = "board"

LONG_ONE_IN = 25
"""One document in so many has several chunks, so that half of a document can be seen; the rest is one line."""


@dataclass(frozen=True, slots=True)
class Version:
    """A document as a client wants it. `edition` None: deleted."""

    number: int
    edition: int | None
    groups: tuple[str, ...] = ()
    year: int = 2000

    @property
    def token(self) -> str:
        """A word that stands in this edition of this document, and nowhere else."""
        return token(self.number, self.edition or 0)

    @property
    def text(self) -> str:
        sentences = 60 if self.number % LONG_ONE_IN == 0 else 1
        return " ".join(f"Record {self.token} tells of herons in part {n}." for n in range(sentences))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(slots=True)
class Entry:
    """known: the last acknowledged version.   pending: what is asked for, or was when the process died.
    sequence: of the last acknowledged change.   editions: how many there have been, so that each is new.
    """

    known: Version
    pending: Version | None = None
    sequence: int = 0
    editions: int = 0
    id: str = ""

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
        if change == "bytes":
            return replace(now, edition=entry.editions + 1)
        if change == "words":
            return replace(now, year=now.year + 1)
        if change == "groups":
            others = [groups for groups in ((), (TEAM,), (BOARD,)) if groups != now.groups]
            return replace(now, groups=dice.choice(others))
        return replace(now, edition=None)


def token(number: int, edition: int) -> str:
    return f"d{number}e{edition}"


def editions_before(version: Version, editions: int) -> Iterable[str]:
    """Tokens of every edition but the one that serves."""
    return (token(version.number, n) for n in range(1, editions + 1) if n != version.edition)
