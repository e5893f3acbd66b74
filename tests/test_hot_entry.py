"""Whatever lies in a cache is told apart from an entry of ours."""

from __future__ import annotations

import zlib

import pytest

from ragline.hot_entry import MAGIC, Unusable, dump_entry, load_entry

KEY, OTHER = "0123456789abcdef" * 2, "f" * 32
ENTRY = dump_entry(b"passages " * 100, key=KEY, made_at=1_700_000_000.25)


def test_an_entry_comes_back() -> None:
    found = load_entry(ENTRY, key=KEY)
    assert (found.made_at, found.payload) == (1_700_000_000.25, b"passages " * 100)
    assert load_entry(dump_entry(b"", key=KEY, made_at=0.0), key=KEY).payload == b""


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "foreign"),
        (b"{}", "foreign"),
        (b"somebody else's", "foreign"),
        (b"RLH0" + ENTRY[4:], "version"),
        (b"RLH2" + ENTRY[4:], "version"),
        (MAGIC, "damaged"),
        (MAGIC + b"\0" * 10, "damaged"),
        (ENTRY[:-1], "damaged"),
        (ENTRY + b"x", "damaged"),
    ],
)
def test_what_is_none_is_told_apart(data: bytes, fault: str) -> None:
    with pytest.raises(Unusable) as told:
        load_entry(data, key=KEY)
    assert told.value.fault == fault


def test_every_flipped_bit_is_found() -> None:
    for place in range(4, len(ENTRY)):
        data = bytearray(ENTRY)
        data[place] ^= 1 << place % 8
        with pytest.raises(Unusable):
            load_entry(bytes(data), key=KEY)


def test_an_entry_under_another_key_is_not_its() -> None:
    with pytest.raises(Unusable) as told:
        load_entry(ENTRY, key=OTHER)
    assert told.value.fault == "misplaced"


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragline.hot_entry.MOST_BYTES", 1_000)
    with pytest.raises(Unusable) as told:
        load_entry(dump_entry(b"\0" * 100_000, key=KEY, made_at=0.0), key=KEY)
    assert told.value.fault == "damaged"


def test_half_of_a_payload_with_a_good_checksum_is_damaged() -> None:
    rest = ENTRY[8:-20]
    with pytest.raises(Unusable) as told:
        load_entry(MAGIC + zlib.crc32(rest).to_bytes(4, "little") + rest, key=KEY)
    assert told.value.fault == "damaged"
