"""What is wrong with one document, judged from its row and from what the stores hold of it. Pure: `audit` does the reading.

The rules, for a row on which nothing is due:
    its live content stands in both stores, once, with as many chunks as the row says; no other content of it does
    it is indexed, failed with a reason, or a tombstone that serves nothing
    its bytes are there as they were accepted, and the chunks of its live content beside them
For a row on which work is due, only: the bytes are there, and it has not stood beyond its deadline.
For any row: what it lies in, if it is a file in an archive or mail, has not gone without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from ragline.contents import Kept
from ragline.registry.upkeep import Standing
from ragline.types import Document, Epoch, State

Counts = Mapping[int, int]
"""Content → chunks held."""


class Kind(StrEnum):
    """What is wrong."""

    MISSING_CHUNKS = "missing chunks"
    SURPLUS_CHUNKS = "surplus chunks"
    STALE_CHUNKS = "stale chunks"
    UNKNOWN_CHUNKS = "unknown chunks"
    LIMBO = "limbo"
    OVERDUE = "overdue"
    ORPHAN_MEMBER = "orphan member"
    MISSING_BYTES = "missing bytes"
    MISSING_BLOB = "missing blob"
    ORPHAN_BLOB = "orphan blob"
    UNKNOWN_FOLDER = "unknown folder"
    MISSING_COLLECTION = "missing collection"
    UNKNOWN_COLLECTION = "unknown collection"
    RETIRED_COLLECTION = "retired collection"
    STALLED_EPOCH = "stalled epoch"


class Remedy(StrEnum):
    """What mending does about it."""

    REPARSE = "parse it again"
    SWEEP = "sweep it again"
    REDRIVE = "end its lease"
    DELETE = "delete the document"
    DELETE_ROWS = "delete the rows"
    DELETE_BLOB = "delete the blob"
    DROP = "drop the collection"
    REINDEX = "build it anew"
    NONE = "nothing by itself"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `place`: a collection, a blob's path, or ``registry``.

    below: for DELETE_ROWS, rows of contents under this number go; a document that comes back has a higher one.
    """

    kind: Kind
    namespace: str
    place: str
    detail: str
    remedy: Remedy
    next_step: str
    document: str | None = None
    uri: str | None = None
    below: int = 0


@dataclass(slots=True)
class Books:
    """What the stores hold for one epoch: document → content → chunks, of each."""

    epoch: Epoch
    serving: bool
    vectors: Mapping[str, Counts] = field(default_factory=dict)
    keywords: Mapping[str, Counts] = field(default_factory=dict)

    def sides(self, id: str) -> Iterator[tuple[str, Counts]]:
        """The two collections, each with what it holds of the document."""
        yield f"vectors:{self.epoch.vectors}", self.vectors.get(id, {})
        yield f"keywords:{self.epoch.keywords}", self.keywords.get(id, {})


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds a document may stand in a state without a step, and a blob lie without an owner."""

    received_s: float
    chunked_s: float
    sweep_s: float
    orphan_s: float

    def of_stage(self, stage: str) -> tuple[str, float]:
        """The setting, and its seconds, that hold for a stage of an attempt."""
        match stage:
            case "parsing":
                return "ingest.received_deadline_s", self.received_s
            case "sweeping":
                return "ingest.sweep_deadline_s", self.sweep_s
        return "ingest.chunked_deadline_s", self.chunked_s

    def of(self, document: Document) -> float:
        """How long `document`, on which work is due, may stand as it does."""
        if document.state is State.DELETED or document.settled >= document.revision:
            return self.sweep_s
        return self.received_s if document.state is State.RECEIVED else self.chunked_s


def judge(
    row: Standing, books: Sequence[Books], kept: Sequence[Kept], *, now: float, limits: Limits, busy: bool = False,
    spans: int | None = None,
) -> list[Finding]:  # fmt: skip
    """Everything that is wrong with one document. `kept`: what lies in the blob store for it, listed before `row` was read.
    `busy`: workers hold documents, so that one that nobody has begun yet waits its turn, however long the line is.
    `spans`: how many chunks the live content has by its blob; None: not read. The row tells it only of its newest content.

    Units: `now` in seconds since 1970.
    """
    found = [*_of_tie(row), *_of_bytes(row.document, kept)]
    found += _orphans(row, kept, now=now, limits=limits)
    if row.due:
        return found + list(_overdue(row, now=now, limits=limits, busy=busy))
    found += _of_state(row.document)
    found += _of_blobs(row.document, kept)
    for one in books:
        found += _of_rows(row.document, one, spans)
    return found


def judge_stranger(
    namespace: str, id: str, books: Sequence[Books], kept: Sequence[Kept], *, now: float, limits: Limits
) -> list[Finding]:
    """Rows and blobs of a document that the registry does not know."""
    found = []
    for one in books:
        for place, counts in one.sides(id):
            if counts:
                words = f"{sum(counts.values())} chunks of a document that the registry does not know."
                found.append(
                    Finding(
                        Kind.UNKNOWN_CHUNKS, namespace, place, words, Remedy.DELETE_ROWS, MEND, document=id,
                        below=max(counts) + 1,
                    )
                )  # fmt: skip
    for folder, blobs in _folders(kept).items():
        if all(is_old(one, now=now, grace_s=limits.orphan_s) for one in blobs):
            found.append(_orphan(namespace, id, None, folder, "No document owns it."))
    return found


def is_old(kept: Kept, *, now: float, grace_s: float) -> bool:
    """Old enough to be no upload that is under way. Without an age, or with one in the future, it counts as young."""
    return kept.modified_at is not None and now - kept.modified_at > grace_s


MEND = "`ragline doctor --deep --mend` does it."


def _finding(document: Document, kind: Kind, place: str, detail: str, remedy: Remedy, step: str = MEND) -> Finding:
    return Finding(kind, document.namespace, place, detail, remedy, step, document=document.id, uri=document.uri)


def _of_state(document: Document) -> Iterator[Finding]:
    """Nothing is due, so the document must have arrived somewhere."""
    state, words = document.state, ""
    remedy = Remedy.REPARSE
    if state in (State.RECEIVED, State.CHUNKED):
        words = f"It is {state}, and nothing is due on it."
    elif state is State.INDEXED and (document.live != document.content or document.chunks is None):
        words = f"It is indexed, but serves content {document.live}, not {document.content}."
    elif state is State.FAILED and not document.reason:
        words = "It failed without a reason."
    elif state is State.DELETED and (document.live is not None or document.blob or document.garbage):
        words, remedy = "It is deleted, but still owns contents.", Remedy.SWEEP
    if words:
        yield _finding(document, Kind.LIMBO, "registry", words, remedy)


def _of_tie(row: Standing) -> Iterator[Finding]:
    """A file goes in the same write as what it lies in, so here something has gone wrong: nobody would ever delete it."""
    if row.orphan:
        document = row.document
        words = "What it lies in was deleted, or is not in the registry."
        step = f"{MEND} To keep it, upload what it lies in again first."
        yield _finding(document, Kind.ORPHAN_MEMBER, "registry", words, Remedy.DELETE, step)


def _overdue(row: Standing, *, now: float, limits: Limits, busy: bool) -> Iterator[Finding]:
    limit = limits.of(row.document)
    in_line = busy and not row.document.attempt
    if now - row.since > limit and not in_line:
        held = "a worker holds it" if row.lease_until > now else "no worker holds it"
        words = f"{row.document.state} for longer than its deadline of {limit:.0f} s; {held}."
        step = f"`ragline documents why {row.document.id}` tells what stands in its way; mending drives it again."
        yield _finding(row.document, Kind.OVERDUE, "registry", words, Remedy.REDRIVE, step)


def _of_rows(document: Document, books: Books, spans: int | None) -> Iterator[Finding]:
    live = document.live
    whole = {place: counts.get(live, 0) for place, counts in books.sides(document.id)} if live is not None else {}
    wanted = document.chunks if live == document.content else spans
    if (
        wanted is None
    ):  # what one store has, the other should have; and none in both is a suspicion, until the blob is read
        wanted = max(whole.values(), default=0) or None
    least = 1 if wanted is None else wanted
    for place, counts in books.sides(document.id):
        for content in sorted(set(counts) - {live}):
            words = (
                f"{counts[content]} chunks of content {content}; it serves {live if live is not None else 'nothing'}."
            )
            yield _stale(document, place, words, content)
        if live is None or not books.serving:
            continue
        held = whole[place]
        if held < least:
            words = f"{held} of {wanted or 'its'} chunks of the live content {live}."
            yield _finding(document, Kind.MISSING_CHUNKS, place, words, Remedy.REPARSE)
        elif wanted is not None and held > wanted:
            words = f"{held} chunks of the live content {live}, which has {wanted}."
            yield _finding(document, Kind.SURPLUS_CHUNKS, place, words, Remedy.REPARSE)


def _stale(document: Document, place: str, words: str, content: int) -> Finding:
    """Older contents, and all of a tombstone, go by a sweep; what a failed content has left behind does not."""
    if document.state is State.DELETED or (document.live is not None and content < document.live):
        return _finding(document, Kind.STALE_CHUNKS, place, words, Remedy.SWEEP)
    if document.live is None:
        return replace(_finding(document, Kind.STALE_CHUNKS, place, words, Remedy.DELETE_ROWS), below=content + 1)
    return _finding(document, Kind.STALE_CHUNKS, place, words, Remedy.REPARSE)


def _of_bytes(document: Document, kept: Sequence[Kept]) -> Iterator[Finding]:
    """What was accepted must be there as long as the document is, whatever is due on it."""
    if document.state is State.DELETED or document.blob is None:
        return
    original = next((one for one in kept if one.blob == document.blob and one.part == "original"), None)
    if original is None or original.size != document.size:
        words = "are gone" if original is None else f"are {original.size} instead of {document.size}"
        again = f"Run `ragline documents retry {document.parent} -n {document.namespace}`"  # what it lies in is parsed again
        step = f"{again if document.parent else 'Upload the document again'}; until then what is live goes on serving."
        yield _finding(document, Kind.MISSING_BYTES, f"blob {document.blob}", f"Its bytes {words}.", Remedy.NONE, step)


def _of_blobs(document: Document, kept: Sequence[Kept]) -> Iterator[Finding]:
    if document.live is None or document.live_blob is None:
        return
    mine = (one for one in kept if one.blob == document.live_blob and one.part == "chunks")
    if not any(one.content == document.live and one.size for one in mine):
        words = f"The chunks of the live content {document.live} are not in the blob store."
        yield _finding(document, Kind.MISSING_BLOB, f"blob {document.live_blob}", words, Remedy.REPARSE)


def _orphans(row: Standing, kept: Sequence[Kept], *, now: float, limits: Limits) -> Iterator[Finding]:
    document = row.document
    owned = {document.blob, document.live_blob, *document.garbage}
    for folder, blobs in _folders(kept).items():
        if blobs[0].blob not in owned:
            if all(is_old(one, now=now, grace_s=limits.orphan_s) for one in blobs):
                yield _orphan(document.namespace, document.id, document.uri, folder, "The document owns others.")
            continue
        for one in blobs:
            unused = one.part in ("chunks", "vectors") and one.content not in (document.live, document.content)
            left = not one.part or (unused and not row.due and one.blob not in document.garbage)
            if left and is_old(one, now=now, grace_s=limits.orphan_s):
                words = "A write that was cut short." if not one.part else "Of a content that is not served."
                yield _orphan(document.namespace, document.id, document.uri, one.path, words)


def _orphan(namespace: str, id: str, uri: str | None, path: str, words: str) -> Finding:
    step = f"The next round of housekeeping collects it; {MEND}"
    return Finding(Kind.ORPHAN_BLOB, namespace, path, words, Remedy.DELETE_BLOB, step, document=id, uri=uri)


def _folders(kept: Sequence[Kept]) -> dict[str, list[Kept]]:
    """By upload: the folder's path → what lies in it."""
    folders: dict[str, list[Kept]] = {}
    for one in kept:
        folders.setdefault("/".join(one.path.split("/", 3)[:3]), []).append(one)
    return folders
