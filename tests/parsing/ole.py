"""The smallest OLE file, as Outlook writes its messages: every stream in the mini stream, a storage for each attachment."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

_SECTOR, _MINI = 512, 64
_END, _FREE, _FAT = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD


@dataclass
class Storage:
    streams: dict[str, bytes] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)


def message(*, subject: str, body: str, sender: str, attachments: dict[str, bytes]) -> bytes:
    """An MSG file."""
    root = Storage()
    root.streams["__nameid_version1.0"] = b""
    root.streams |= {_text(0x0037): _utf16(subject), _text(0x1000): _utf16(body), _text(0x0C1A): _utf16(sender)}
    counts = struct.pack("<8x4I8x", 0, len(attachments), 0, len(attachments))
    root.streams["__properties_version1.0"] = counts + _properties(
        (0x0037, 0x1F, len(subject)), (0x1000, 0x1F, len(body)), (0x0C1A, 0x1F, len(sender))
    )
    for number, (name, data) in enumerate(attachments.items()):
        inner = root.storages[f"__attach_version1.0_#{number:08X}"] = Storage()
        inner.streams = {_text(0x3707): _utf16(name), "__substg1.0_37010102": data}
        inner.streams["__properties_version1.0"] = bytes(8) + _properties(
            (0x3707, 0x1F, len(name)), (0x3701, 0x102, len(data)), (0x3705, 0x03, 1)
        )
    return write(root)


def write(root: Storage) -> bytes:
    entries: list[list[object]] = [["Root Entry", 5, _FREE, _FREE, _FREE, b""]]
    _add(root, 0, entries)
    mini, fat_of_mini = bytearray(), list[int]()
    starts = {}
    for at, entry in enumerate(entries):
        data = entry[5]
        assert isinstance(data, bytes)
        if entry[1] == 2 and data:
            starts[at] = len(fat_of_mini)
            count = -(-len(data) // _MINI)
            fat_of_mini += [*range(starts[at] + 1, starts[at] + count), _END]
            mini += data.ljust(count * _MINI, b"\0")
    directory = b"".join(
        _entry(entry, starts.get(at, _END) if at else 0, len(mini) if not at else None)
        for at, entry in enumerate(entries)
    )
    parts = [
        _padded(directory),
        _padded(struct.pack(f"<{len(fat_of_mini)}I", *fat_of_mini), b"\xff"),
        _padded(bytes(mini)),
    ]
    sizes = [len(part) // _SECTOR for part in parts]
    fat, first = [_FAT], [0, 0, 0]
    for i, size in enumerate(sizes):
        first[i] = len(fat)
        fat += [*range(len(fat) + 1, len(fat) + size), _END]
    assert len(fat) <= _SECTOR // 4
    whole_directory = parts[0][:116] + struct.pack("<I", first[2]) + parts[0][120:]
    header = struct.pack(
        "<8s16x5H6x6I", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0x3E, 3, 0xFFFE, 9, 6, 0, 1, first[0], 0, 4096, first[1]
    ) + struct.pack("<3I", sizes[1], _END, 0)
    header += struct.pack("<109I", 0, *[_FREE] * 108)
    table = struct.pack(f"<{len(fat)}I", *fat).ljust(_SECTOR, b"\xff")
    return header + table + whole_directory + parts[1] + parts[2]


def _add(storage: Storage, at: int, entries: list[list[object]]) -> None:
    """Children as a chain to the right: a tree that readers accept, if not a balanced one."""
    children: list[tuple[str, bytes | Storage]] = [*storage.streams.items(), *storage.storages.items()]
    before: int | None = None
    for name, child in sorted(children, key=lambda one: (len(one[0]), one[0].upper())):
        here = len(entries)
        entries.append(
            [
                name,
                2 if isinstance(child, bytes) else 1,
                _FREE,
                _FREE,
                _FREE,
                child if isinstance(child, bytes) else b"",
            ]
        )
        if before is None:
            entries[at][4] = here
        else:
            entries[before][3] = here
        before = here
        if isinstance(child, Storage):
            _add(child, here, entries)


def _entry(entry: list[object], start: int, size: int | None) -> bytes:
    name, kind, left, right, child, data = entry
    assert isinstance(name, str)
    assert isinstance(data, bytes)
    raw = _utf16(name) + b"\0\0"
    length = len(data) if size is None else size
    return struct.pack("<64sHBB3I36xIQ", raw, len(raw), kind, 1, left, right, child, start, length)


def _properties(*given: tuple[int, int, int]) -> bytes:
    """(id, type, value or number of characters or bytes)"""
    lines = []
    for id, kind, value in given:
        length = 2 * value + 2 if kind == 0x1F else value
        lines.append(struct.pack("<HHIII", kind, id, 6, length, 0))
    return b"".join(lines)


def _text(id: int) -> str:
    return f"__substg1.0_{id:04X}001F"


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le")


def _padded(data: bytes, fill: bytes = b"\0") -> bytes:
    return data.ljust(-(-max(1, len(data)) // _SECTOR) * _SECTOR, fill)
