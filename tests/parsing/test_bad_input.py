"""What arrives in practice: wrong endings, odd encodings, broken files. Each is read, or refused with its reason."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ragline.errors import DocumentRejected, Reason
from ragline.types import Parsed

ParseHere = Callable[..., Parsed]


def refused(parse: ParseHere, data: bytes, name: str, **more: int) -> DocumentRejected:
    with pytest.raises(DocumentRejected) as caught:
        parse(data, name, **more)
    assert caught.value.message
    assert caught.value.next_step
    return caught.value


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.html", "a.md", "a.txt", "a.csv", "a.json", "a"])
@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", "\ufeff".encode()])
def test_nothing_is_empty(parse: ParseHere, name: str, data: bytes) -> None:
    assert refused(parse, data, name).reason is Reason.EMPTY


def test_pdf_reasons(parse: ParseHere, make_pdf: Callable[..., bytes]) -> None:
    whole = make_pdf([["Words on a page."] * 30])
    assert refused(parse, make_pdf([["Secret."]], password="s3cret"), "a.pdf").reason is Reason.ENCRYPTED
    assert refused(parse, whole[:300], "a.pdf").reason is Reason.DAMAGED
    assert refused(parse, make_pdf([]), "a.pdf").reason is Reason.EMPTY
    assert refused(parse, make_pdf([[], []]), "a.pdf").reason is Reason.NO_TEXT


def test_docx_reasons(
    parse: ParseHere, make_zip: Callable[[dict[str, bytes]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = b"<w:document/>"
    assert refused(parse, make_zip({"word/document.xml": document}), "a.docx").reason is Reason.DAMAGED
    assert refused(parse, make_zip({"word/document.xml": b"x" * 5000})[:60], "a.docx").reason is Reason.DAMAGED
    bomb = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><w:document>&a;</w:document>'
    assert refused(parse, make_zip({"word/document.xml": bomb}), "a.docx").reason is Reason.DAMAGED
    office = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600 + "EncryptedPackage".encode("utf-16-le")
    assert refused(parse, office, "a.docx").reason is Reason.ENCRYPTED
    monkeypatch.setattr("ragline.parsing.package.MAX_PART_BYTES", 1 << 20)
    assert refused(parse, make_zip({"word/document.xml": b" " * (2 << 20)}), "a.docx").reason is Reason.TOO_LARGE


@pytest.mark.parametrize("name", ["a.txt", "a.pdf.md", "a.html", "a", "a.docx"])
def test_content_tells_a_pdf_not_its_name(parse: ParseHere, make_pdf: Callable[..., bytes], name: str) -> None:
    assert parse(make_pdf([["True self."]]), name).text == "True self."


@pytest.mark.parametrize("name", ["a.pdf", "a.txt", "a.png", "a"])
def test_content_tells_an_archive_not_its_name(
    parse: ParseHere, make_zip: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    members = parse(make_zip({"word/notes.txt": b"Words.", "b.pdf": b"%PDF-1.4"}), name).members
    assert [member.name for member in members] == ["word/notes.txt", "b.pdf"]


def test_content_tells_html_and_text(parse: ParseHere) -> None:
    assert parse(b"<!DOCTYPE html><title>T</title><p>Hello</p>", "a.pdf").text == "Hello"
    assert parse(b'<?xml version="1.0"?>\n<!-- c --><html><body>Hi</body></html>', "a.xml").text == "Hi"
    assert parse(b"Just words, not a PDF.", "a.pdf").text == "Just words, not a PDF."
    assert parse(b"# Kept", "a.unknown", "text/markdown").title == "Kept"
    assert parse(b"# Kept", "https://example.org/a.md?version=2").title == "Kept"
    assert parse(b"# Kept", "C# or what?.md").title == "Kept"


@pytest.mark.parametrize(
    ("data", "looks"),
    [
        (b"fLaC" + bytes(range(256)), "FLAC"),
        (b"\x7fELF" + bytes(range(256)) * 4, "program"),
        (b"Rar!" + bytes(range(256)) * 4, "RAR"),
        (random.Random(7).randbytes(4096), "binary data"),
        (bytes(2000), "binary data"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.html", "a", "a.xyz", "a.doc", "a.ppt", "a.xls"])
def test_noise_is_unsupported_and_named(parse: ParseHere, data: bytes, looks: str, name: str) -> None:
    error = refused(parse, data, name)
    assert error.reason is Reason.UNSUPPORTED
    assert looks in error.message
    assert "PDF" in error.next_step


def test_too_much_text(parse: ParseHere) -> None:
    assert refused(parse, b"word " * 1000, "a.txt", max_chars=4000).reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("utf-8-sig", "Größe, naïve café — “quotes”"),
        ("utf-16", "Größe, naïve café — “quotes”"),
        ("utf-16-le", "Plain words without a mark, as Windows writes them."),
        ("utf-16-be", "Русский текст без метки, and some Latin."),
        ("utf-32", "Größe, naïve café"),
        ("cp1252", "Größe, naïve café über die Straße, “quoted” – and more of it."),
        ("cp1251", "Однако директор училища посоветовал молодому человеку поступить в университет."),
        ("koi8-r", "Однако директор училища посоветовал молодому человеку поступить в университет."),
        ("cp1250", "Időközben a választók milyen politikai programot tettek le a kormány asztalára, nem tűnt el."),
        ("shift_jis", "衆院予算委員会は理事会で、来週の審議の日程を決めた。"),
        ("euc-kr", "한국 사람들은 대개 아침에 밥을 먹고 학교에 간다고 합니다."),
        ("gb18030", "麦蒂的天赋足可以排进联盟的前十位，这是球迷的看法。"),
        ("iso2022_jp", "日本語のテキストです。"),
        ("cp1255", "בין הניבים המדוברים בפי עדות יהודיות שונות"),
        ("utf-8", "مرحبا بالعالم، هذا نص عربي."),
        ("utf-8", "日本語の文章。中文句子！한국어 문장."),
    ],
)
def test_text_in_any_encoding(parse: ParseHere, codec: str, text: str) -> None:
    assert parse(text.encode(codec), "a.txt").text == text


def test_invalid_utf8_is_replaced(parse: ParseHere) -> None:
    data = "Größe und Maß, Länge und Höhe, Straße, Fuß.".encode() + b" broken \xff\xfe here"
    assert parse(data, "a.txt").text == "Größe und Maß, Länge und Höhe, Straße, Fuß. broken �� here"


def test_cleaning(parse: ParseHere) -> None:
    data = "a\r\nb\rc\x00d\x07\u00ade\ufefff ﬁne x² e\u0301\n\n\n\n\nend \ue000\u200bno\u200dw".encode()
    assert parse(data, "a.txt").text == "a\nb\ncdef fine x² \u00e9\n\nend \ue000no\u200dw"
    assert parse("ลอง\u200bดู".encode(), "a.txt").text == "ลอง\u200bดู"


def test_stray_zeros_do_not_make_utf16(parse: ParseHere) -> None:
    assert parse(b"hello\0world\0\x01\x02 text\n" * 100, "a.txt").text.startswith("helloworld text\nhelloworld")


def test_a_huge_line(parse: ParseHere) -> None:
    assert len(parse(b"x" * 5_000_000, "a.txt").text) == 5_000_000
