"""Files made to hurt: each fails with its reason, or is read, and costs nobody else anything."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.limits import Limits
from ragline.parsing.pool import ParserPool
from ragline.types import Parsed
from tests.parsing.packages import ODF_NAMES, epub, odf, package, pptx, shape, xlsx
from tests.reading import at_hand

ParseHere = Callable[..., Parsed]
MB = 1 << 20
BOMB_BYTES = 272 * MB

LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)
FOREIGN = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


def refused(parse: ParseHere, data: bytes, name: str, **limits: int) -> Reason:
    with pytest.raises(DocumentRejected) as caught:
        parse(data, name, **limits)
    assert caught.value.message
    assert caught.value.next_step
    return caught.value.reason


def whole() -> dict[str, bytes]:
    filler = " ".join(f"word{n * n}" for n in range(3000))
    return {
        "a.pptx": pptx(shape(filler)),
        "a.xlsx": xlsx(A=[[filler, "b"]]),
        "a.odt": odf("text", f"<text:p>{filler}</text:p>"),
        "a.ods": odf(
            "spreadsheet", f"<table:table><table:table-row><text:p>{filler}</text:p></table:table-row></table:table>"
        ),
        "a.epub": epub({"one": f"<p>{filler}</p>"}, title="T"),
        "a.docx": package({"[Content_Types].xml": "<Types/>", "word/document.xml": f"<document>{filler}</document>"}),
        "a.zip": package({"a.txt": filler}),
    }


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", sorted(whole()))
def test_packages_cut_short_are_damaged(parse: ParseHere, name: str, share: float) -> None:
    data = whole()[name]
    assert refused(parse, data[: int(share * len(data))], name) is Reason.DAMAGED


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.xlsx", "a.doc", "a"])
def test_office_files_under_a_password_are_encrypted(parse: ParseHere, name: str) -> None:
    locked = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600 + "EncryptedPackage".encode("utf-16-le") + b"\0" * 600
    assert refused(parse, locked, name) is Reason.ENCRYPTED


def test_packages_with_locked_parts_are_encrypted(parse: ParseHere) -> None:
    for name, data in whole().items():
        locked = bytearray(data)
        for sign, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            start = locked.find(sign)
            while start >= 0:
                locked[start + at] |= 1
                start = locked.find(sign, start + 4)
        assert refused(parse, bytes(locked), name) is Reason.ENCRYPTED, name
    manifest = "<manifest><file-entry><encryption-data/></file-entry></manifest>"
    sealed = package(
        {"META-INF/manifest.xml": manifest, "content.xml": b"\1\2\3"},
        first=("mimetype", "application/vnd.oasis.opendocument.text"),
    )
    assert refused(parse, sealed, "a.odt") is Reason.ENCRYPTED


@pytest.mark.parametrize("prolog", [LAUGHS, FOREIGN], ids=["laughs", "foreign"])
def test_entities_are_never_expanded_in_any_kind_of_xml(parse: ParseHere, prolog: str) -> None:
    name = "c" if prolog is LAUGHS else "a"
    slide = (
        f"{prolog}<p:sld xmlns:p='http://schemas.openxmlformats.org/presentationml/2006/main'><x>&{name};</x></p:sld>"
    )
    inner = f"<office:body><text:p>&{name};</text:p></office:body>"
    content = f"{prolog}<office:document-content {ODF_NAMES}>{inner}</office:document-content>"
    types = {"[Content_Types].xml": "<Types/>"}
    made = {
        "a.docx": package({**types, "word/document.xml": f"{prolog}<w>&{name};</w>"}),
        "a.pptx": package({**types, "ppt/presentation.xml": slide}),
        "a.odt": package({"content.xml": content}, first=("mimetype", "application/vnd.oasis.opendocument.text")),
        "a.odp": package({"content.xml": content}, first=("mimetype", "application/vnd.oasis.opendocument.presentation")),
        "a.epub": package({"META-INF/container.xml": f"{prolog}<c>&{name};</c>"}, first=("mimetype", "application/epub+zip")),
    }  # fmt: skip
    for file, data in made.items():
        assert refused(parse, data, file) is Reason.DAMAGED, file
    for codec in ("utf-8", "utf-16"):
        text = parse(
            f"<?xml version='1.0' encoding='{codec}'?>{prolog}<x><p>Words &{name}; more</p></x>".encode(codec), "a.xml"
        ).text
        assert "Words" in text
        assert "haha" not in text
        assert "root:" not in text
    with zipfile.ZipFile(io.BytesIO(xlsx(A=[["here", "there"]]))) as archive:
        parts: dict[str, str | bytes] = {n: archive.read(n) for n in archive.namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"]
    assert isinstance(sheet, bytes)
    parts["xl/worksheets/sheet1.xml"] = prolog.encode() + sheet.replace(b"here", f"&{name};".encode(), 1)
    with contextlib.suppress(DocumentRejected):
        text = parse(package(parts), "a.xlsx").text
        assert "haha" not in text
        assert "root:" not in text


@functools.cache
def _zeros() -> tuple[bytes, int]:
    """More than any part may unpack to, packed; and its checksum. Made once: packing it is what takes time."""
    packer, crc, parts = zlib.compressobj(1, wbits=-15), 0, []
    block = bytes(16 * MB)
    for _ in range(BOMB_BYTES // len(block)):
        parts.append(packer.compress(block))
        crc = zlib.crc32(block, crc)
    return b"".join([*parts, packer.flush()]), crc


def bomb(path: str, *, types: bool = False, first: tuple[str, str] | None = None) -> bytes:
    """A package with one part that unpacks to BOMB_BYTES, put together by hand."""
    packed, crc = _zeros()
    small = package({"[Content_Types].xml": "<Types/>"} if types else {}, first=first)
    directory, end = small.rfind(b"PK\x01\x02", 0, small.rfind(b"PK\x05\x06")), small.rfind(b"PK\x05\x06")
    directory = end if directory < 0 else directory
    name = path.encode()
    sizes = struct.pack("<HHHIIIHH", 8, 0, 0, crc, len(packed), BOMB_BYTES, len(name), 0)
    local = b"PK\x03\x04" + struct.pack("<HH", 20, 0) + sizes + name + packed
    central = (
        b"PK\x01\x02" + struct.pack("<HHH", 20, 20, 0) + sizes + struct.pack("<HHHII", 0, 0, 0, 0, directory) + name
    )
    entries = small[directory:end] + central
    count = entries.count(b"PK\x01\x02")
    tail = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(entries), directory + len(local), 0)
    return small[:directory] + local + entries + tail


async def test_a_bomb_costs_itself_alone_whatever_it_is_packed_in() -> None:
    """Through the pool, whose children have a limit of memory well below what these would unpack to."""
    nested = package({"inner.zip": bomb("a.txt"), "good.txt": "Words."})
    packed = gzip.compress(bytes(80 * MB), 1)
    odt, book = ("mimetype", "application/vnd.oasis.opendocument.text"), ("mimetype", "application/epub+zip")
    bombs = {
        "a.zip": bomb("a.txt"), "a.gz": packed, "a.tgz": packed, "a.docx": bomb("word/document.xml", types=True),
        "a.pptx": bomb("ppt/presentation.xml", types=True), "a.xlsx": bomb("xl/workbook.xml", types=True),
        "a.odt": bomb("content.xml", first=odt), "a.epub": bomb("META-INF/container.xml", first=book),
    }  # fmt: skip
    pool = ParserPool(processes=1, timeout_s=60.0, limits=Limits(memory_bytes=1 << 30, max_members_bytes=64 * MB))
    try:
        for name, data in bombs.items():
            with pytest.raises(DocumentRejected) as caught:
                await pool.parse(at_hand(data), name=name, media_type=None)
            assert caught.value.reason is Reason.TOO_LARGE, name
            assert (await pool.parse(at_hand(b"fine"), name="a.txt", media_type=None)).text == "fine"
        members = (await pool.parse(at_hand(nested), name="a.zip", media_type=None)).members
        assert [member.name for member in members] == ["inner.zip", "good.txt"]
    finally:
        await pool.aclose()


def test_an_archive_that_lies_about_its_sizes_is_counted_as_it_unpacks(parse: ParseHere) -> None:
    data = bytearray(package({"a.txt": bytes(4 * MB)}))
    for sign, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.find(sign)
        data[start + at : start + at + 4] = (10).to_bytes(4, "little")
    assert refused(parse, bytes(data), "a.zip", max_members_bytes=MB) in (
        Reason.DAMAGED,
        Reason.EMPTY,
        Reason.TOO_LARGE,
    )


def test_too_many_files_in_an_archive(parse: ParseHere) -> None:
    assert refused(parse, package({f"{n}.txt": "x" for n in range(101)}), "a.zip", max_members=100) is Reason.TOO_LARGE


def test_a_cell_in_the_far_corner(parse: ParseHere) -> None:
    book = xlsx(A=[["name", "value"], ["near", "here"]])
    with zipfile.ZipFile(io.BytesIO(book)) as archive:
        parts: dict[str, str | bytes] = {n: archive.read(n) for n in archive.namelist()}
    sheet = parts["xl/worksheets/sheet1.xml"]
    assert isinstance(sheet, bytes)
    far = b'<row r="1048576"><c r="XFD1048576" t="inlineStr"><is><t>far</t></is></c></row></sheetData>'
    parts["xl/worksheets/sheet1.xml"] = sheet.replace(b"</sheetData>", far)
    assert refused(parse, package(parts), "a.xlsx") is Reason.TOO_LARGE


def test_a_pdf_of_ten_thousand_pages(parse: ParseHere, make_pdf: Callable[..., bytes]) -> None:
    parsed = parse(make_pdf([[f"Page {n}."] for n in range(10_000)]), "a.pdf")
    assert parsed.blocks[-1].page == 10_000
    assert parsed.text.endswith("Page 9999.")


def test_very_long_texts_and_lines(parse: ParseHere) -> None:
    assert refused(parse, b"words and words. " * (200 * MB // 17), "a.txt") is Reason.TOO_LARGE
    assert refused(parse, b"x" * (50 * MB), "a.txt") is Reason.TOO_LARGE
    line = b"a very [[long *line_ " * (MB // 84)
    for name in ("a.txt", "a.csv", "a.json", "a.org", "a.adoc", "a.rst", "a.srt", "a.xml", "a.html", "a.rtf"):
        assert len(parse(line, name).text) > MB // 6, name
    assert len(parse(b"a very long line " * 3_000, "a.tex").text) > 48_000


def test_depth(parse: ParseHere) -> None:
    deep = b"[" * 100_000 + b"1" + b"]" * 100_000
    assert parse(deep, "a.json").text == deep.decode()
    assert parse(deep, "a.ipynb").text == deep.decode()
    assert "deep" in parse(b"<a>" * 100_000 + b"deep" + b"</a>" * 100_000, "a.xml").text
    assert (
        "deep"
        in parse(
            odf("text", "<text:section>" * 50_000 + "<text:p>deep</text:p>" + "</text:section>" * 50_000), "a.odt"
        ).text
    )
    assert (
        "deep"
        in parse(
            odf("text", "<text:p>" + "<text:span>" * 50_000 + "deep" + "</text:span>" * 50_000 + "</text:p>"), "a.odt"
        ).text
    )
    assert "deep" in parse(pptx("<p:grpSp>" * 20_000 + shape("deep") + "</p:grpSp>" * 20_000), "a.pptx").text
    assert "deep" in parse(b"{" * 5_000 + rb"\b deep" + b"}" * 5_000, "a.tex").text
    assert "deep" in parse(b"{\\rtf1 " + b"{" * 50_000 + b"deep" + b"}" * 50_000 + b"}", "a.rtf").text
    assert "deep" in parse(b"".join(b"%s- item\n\n" % (b"  " * n) for n in range(300)) + b"\ndeep", "a.rst").text


def test_html_of_a_million_tags(parse: ParseHere) -> None:
    assert parse(b"<html><body>" + b"<b>x</b><br>" * 333_334, "a.html").text.count("x") == 333_334


def test_rows_of_unequal_length(parse: ParseHere) -> None:
    text = parse(b'a,b,c\n1\n1,2,3,4,5\n\n,,\n"open,2\n7,8,9\n', "a.csv").text
    assert text.startswith("a; b; c\na: 1\na: 1; b: 2; c: 3; 4; 5\n")
    assert "7,8,9" in text.replace("\n", "")
