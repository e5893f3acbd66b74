"""What `ingest` was pointed at: folders, globs, files, URLs, records, stdin; each becomes items with a uri of their own.

A source that cannot be read, or that would overwrite another one of the same run, is reported and left out.
"""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ragline.cli.failures import WrongUsage
from ragline.cli.opening import Opened, Remote, open_file, version_of

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Item:
    """A document to upload. Its bytes are `data`, or lie in `path`, or in `remote`. Units: `size` in bytes."""

    uri: str
    size: int
    path: Path | None = None
    data: bytes | None = None
    remote: Remote | None = None
    title: str = ""
    media_type: str = "application/octet-stream"
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A document that did not make it, and why."""

    uri: str
    reason: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A file, the name it gets as a document, and the version in which it was seen: a local `path`, or `remote`."""

    uri: str
    size: int
    version: str
    path: Path | None = None
    remote: Remote | None = None


def find(places: Sequence[str], *, troubles: list[Trouble], ending: str = "") -> list[Found]:
    """Every file that `places` mean, in order, each once; in folders only names that end in `ending`.

    Raises:  WrongUsage: a place that is not there. Nothing has been read by then.  NotReachable: a URL's server.
    """
    found: dict[str, Found] = {}
    for url in [place for place in places if is_url(place)]:
        from ragline.cli.remote import find_remote

        for one in find_remote(url, ending=ending):
            if found.setdefault(one.uri, one) is not one:
                troubles.append(Trouble(one.uri, f"{url} and another place would give the same document"))
    for path, root in [pair for place in places if not is_url(place) for pair in _expand(place)]:
        for file, uri in _walk(path, root, ending, troubles):
            try:
                known = file.stat()
                if not stat.S_ISREG(known.st_mode):
                    raise OSError("not a regular file; pipe it in with `-` and --uri")
            except OSError as error:
                troubles.append(Trouble(uri, f"cannot be read: {error.strerror or error}"))
                continue
            twin = found.get(uri)
            if twin is None:
                found[uri] = Found(uri, known.st_size, version_of(known), path=file)
            elif twin.path is None or not file.samefile(twin.path):
                reason = f"{file} and {twin.path} would be the same document; give the folder that holds both"
                troubles.append(Trouble(uri, reason))
    return list(found.values())


def from_files(files: Sequence[Found], metadata: Mapping[str, Any]) -> Iterator[Item]:
    return (Item(uri=file.uri, size=file.size, path=file.path, remote=file.remote, metadata=metadata) for file in files)


def from_stdin(uri: str, metadata: Mapping[str, Any]) -> Iterator[Item]:
    data = sys.stdin.buffer.read()
    yield Item(uri=uri, size=len(data), data=data, metadata=metadata)


def open_item(item: Item) -> Opened:
    """Raises OSError, NotReachable."""
    if item.data is not None:
        return Opened(item.data, "")
    if item.remote is not None:
        return item.remote.open()
    assert item.path
    return open_file(item.path)


def is_url(place: str) -> bool:
    """A path may hold ``://`` too; it is one when it is there."""
    scheme, found, _ = place.partition("://")
    return bool(found) and scheme.replace("+", "").replace("-", "").isalnum() and not os.path.lexists(place)


def _expand(place: str) -> list[tuple[Path, Path | None]]:
    """(path, the folder that uris are relative to, None for the path's own)."""
    path = Path(place)
    if os.path.lexists(path):
        return [(path, None)]
    if glob.has_magic(place):
        fixed = Path(*_until_magic(path.parts))
        matches = sorted(glob.iglob(place, recursive=True))  # noqa: PTH207 - as a shell, absolute or not
        if matches:
            return [(Path(match), fixed) for match in matches]
        raise WrongUsage(f"No file matches {place}.", next_step="Correct the pattern; `**` means any folders.")
    raise WrongUsage(f"{place} does not exist.", next_step="Correct the path; `-` with --uri reads standard input.")


def _until_magic(parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _walk(path: Path, root: Path | None, ending: str, troubles: list[Trouble]) -> Iterator[tuple[Path, str]]:
    """(file, uri) below `path`, or `path` itself; hidden names are skipped, a folder is entered once: links may loop."""
    if not path.is_dir():
        yield path, _uri(path, root or path.parent)
        return
    root = root or path
    entered: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        troubles.append(Trouble(_uri(Path(error.filename), root), f"cannot be read: {error.strerror}"))

    for folder, folders, names in os.walk(path, followlinks=True, onerror=unreadable):
        try:
            known = Path(folder).stat()
        except OSError as error:
            unreadable(error)
            continue
        if (known.st_dev, known.st_ino) in entered:
            folders.clear()
            continue
        entered.add((known.st_dev, known.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.endswith(ending):
                yield Path(folder, name), _uri(Path(folder, name), root)


def _uri(path: Path, root: Path) -> str:
    """Names that are no UTF-8 are shown as such: a uri is text."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "replace")
