"""Scans and images: words by Tesseract where it is installed, else the reason and the command that installs it."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pypdfium2
import pytest

from ragline.errors import DocumentRejected, Reason
from ragline.parsing import scans
from ragline.parsing.limits import Limits, Tools
from ragline.parsing.ocr import Reader
from ragline.parsing.outline import Outline, Postponed
from ragline.parsing.pdf import parse as parse_pdf
from ragline.parsing.pool import ParserPool
from ragline.types import Parsed
from tests.reading import at_hand

ParseHere = Callable[..., Parsed]
MakePdf = Callable[..., bytes]
needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None and not os.environ.get("CI"), reason="Tesseract is not installed"
)
WORDS = ["Herons wait at the pond", "until the fish come."]


def pixels(pdf: bytes) -> tuple[int, int, bytes]:
    """Width, height and grey pixels of the first page at 200 dots an inch."""
    document = pypdfium2.PdfDocument(pdf)
    grey = document[0].render(scale=200 / 72, grayscale=True).to_numpy()
    document.close()
    return grey.shape[1], grey.shape[0], grey.tobytes()


def png(width: int, height: int, grey: bytes) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + grey[i : i + width] for i in range(0, len(grey), width))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines)) + part(b"IEND", b"")


def scanned(*pages: list[str] | tuple[int, int, bytes]) -> bytes:
    """A PDF whose pages are lines of text, or one picture as large as the page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    raw: dict[int, bytes] = {}
    kids = []
    for page in pages:
        number = len(objects) + 1
        kids.append(f"{number} 0 R")
        if isinstance(page, tuple):
            width, height, grey = page
            content, resources = b"612 0 0 792 0 0 cm /I Do", f"/XObject << /I {number + 2} 0 R >>"
        else:
            lines = "".join(f"({line}) Tj T*\n" for line in page)
            content, resources, grey = f"BT /F 12 Tf 14 TL 72 720 Td {lines} ET".encode(), "/Font << /F 3 0 R >>", b""
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {number + 1} 0 R /Resources << {resources} >> >>",
            f"<< /Length {len(content)} >>",
        ]
        raw[number + 1] = content
        if grey:
            packed = zlib.compress(grey)
            objects.append(
                f"<< /Type /XObject /Subtype /Image /Width {width} /Height {height} /BitsPerComponent 8"
                f" /ColorSpace /DeviceGray /Filter /FlateDecode /Length {len(packed)} >>"
            )
            raw[number + 2] = packed
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out = bytearray(b"%PDF-1.4\n")
    for number, body in enumerate(objects, 1):
        stream = b"\nstream\n" + raw[number] + b"\nendstream" if number in raw else b""
        out += f"{number} 0 obj\n{body}".encode() + stream + b"\nendobj\n"
    return bytes(out) + b"trailer\n<< /Root 1 0 R >>\n%%EOF\n"


@pytest.fixture
def picture(make_pdf: MakePdf) -> tuple[int, int, bytes]:
    return pixels(make_pdf([WORDS]))


@needs_tesseract
def test_an_image_is_read(parse: ParseHere, picture: tuple[int, int, bytes]) -> None:
    assert parse(png(*picture), "a.bin").text.split() == " ".join(WORDS).split()


@needs_tesseract
def test_pages_that_are_scans_are_read_and_the_others_keep_their_text(
    parse: ParseHere, picture: tuple[int, int, bytes]
) -> None:
    parsed = parse(scanned(["A page of text."], picture, ["Another one."]), "a.pdf")
    assert [(block.page, " ".join(parsed.text[block.start : block.end].split())) for block in parsed.blocks] == [
        (1, "A page of text."), (2, " ".join(WORDS)), (3, "Another one."),
    ]  # fmt: skip


@needs_tesseract
def test_a_font_that_maps_to_no_letters_is_read_by_its_looks(parse: ParseHere) -> None:
    """As broken exports have it: every character is mapped to a private one, so that copying gives nothing."""
    cmap = (
        b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <00> <FF> endcodespacerange"
        b" 1 beginbfrange <20> <7E> <E020> endbfrange endcmap end"
    )
    stream = f"6 0 obj << /Length {len(cmap)} >>\nstream\n".encode() + cmap + b"\nendstream endobj\n"
    whole = scanned(WORDS).replace(b"/BaseFont /Helvetica", b"/BaseFont /Helvetica /ToUnicode 6 0 R")
    broken = whole.replace(b"trailer", stream + b"trailer")
    assert parse(broken, "a.pdf").text.split() == " ".join(WORDS).split()
    with pytest.raises(DocumentRejected) as caught:
        parse(broken, "a.pdf", tools=Tools(ocr=False))
    assert caught.value.reason is Reason.NO_TEXT


@needs_tesseract
def test_pictures_without_words_and_broken_ones(parse: ParseHere, make_pdf: MakePdf) -> None:
    blank = pixels(make_pdf([[]]))
    for data, reason in (
        (png(*blank), Reason.NO_TEXT),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), Reason.DAMAGED),
        (scanned(blank), Reason.NO_TEXT),
    ):
        with pytest.raises(DocumentRejected) as caught:
            parse(data, "a")
        assert caught.value.reason is reason


@needs_tesseract
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "gif", "bmp", "webp", "pnm", "jp2"])
def test_a_list_of_names_opens_no_file_of_the_server(
    parse: ParseHere, picture: tuple[int, int, bytes], tmp_path: Path, ending: str
) -> None:
    """Tesseract takes what it does not know for such a list, and a file that only begins like an image is none."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(*picture))
    for start in (b"", b"\x89PNG\n", b"\0\0\0\x0cjP\n", b"\xff\xd8\n"):
        with pytest.raises(DocumentRejected) as caught:
            parse(start + f"{secret}\n".encode() + bytes(999), f"x.{ending}")
        assert caught.value.reason is Reason.DAMAGED


SIGNATURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF87a", b"GIF89a", b"BM", b"RIFF....WEBP",
    b"\0\0\0\x0cjP  \r\n\x87\n", b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n",
)  # fmt: skip


@needs_tesseract
@pytest.mark.parametrize("signature", SIGNATURES)
def test_tesseract_itself_takes_none_of_the_signatures_that_are_let_through_for_a_list(
    picture: tuple[int, int, bytes], tmp_path: Path, signature: bytes
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(*picture))
    reader = Reader(Outline(Limits(), slow=True), tmp_path)
    with contextlib.suppress(DocumentRejected):  # a broken TIFF has no pages
        assert reader.pages(signature + f"\n{secret}\n".encode() * 2) == [""]
    assert (tmp_path / "output").read_bytes() == b""


def test_what_is_no_image_never_reaches_tesseract(
    picture: tuple[int, int, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bytes] = []

    def run(*_: object, **words: bytes) -> tuple[int, bytes, str]:
        given.append(words["given"])
        return 0, b"", ""

    monkeypatch.setattr("ragline.parsing.programs.run", run)
    reader = Reader(Outline(Limits(), slow=True), tmp_path)
    for data in (b"", b"/etc/a.png\n", b" \x89PNG\r\n\x1a\n", b"P7\n", b"P5/a.png\n", *(s[:-1] for s in SIGNATURES)):
        with pytest.raises(DocumentRejected):
            reader.pages(data)
    assert given == []
    document = pypdfium2.PdfDocument(scanned(picture))
    scans.read(document, [0], Outline(Limits(), slow=True, scratch=tmp_path))
    document.close()
    (drawn,) = given
    assert drawn.startswith(b"P5 2550 3301 255\n")  # the page as we have drawn it, whatever lay in the PDF


@needs_tesseract
def test_a_language_that_is_not_there_is_named_with_its_package(
    parse: ParseHere, picture: tuple[int, int, bytes]
) -> None:
    with pytest.raises(DocumentRejected) as caught:
        parse(png(*picture), "a.png", tools=Tools(ocr_languages="eng+xyz"))
    assert "apt-get install tesseract-ocr-eng tesseract-ocr-xyz" in caught.value.next_step


@needs_tesseract
async def test_through_the_pool_in_a_lane_of_its_own(tmp_path: Path, picture: tuple[int, int, bytes]) -> None:
    pool = ParserPool(processes=1, timeout_s=60.0, limits=Limits(), scratch=tmp_path / "scratch")
    try:
        parsed = await pool.parse(at_hand(scanned(picture)), name="a.pdf", media_type=None)
        assert parsed.text.split() == " ".join(WORDS).split()
    finally:
        await pool.aclose()
    assert not os.listdir(tmp_path)  # noqa: PTH208


def test_what_takes_long_is_postponed_outside_the_slow_lane(
    picture: tuple[int, int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ragline.parsing.programs.installed", lambda *_: "/usr/bin/tesseract")
    with pytest.raises(Postponed):
        parse_pdf(scanned(picture), Outline(Limits(), slow=False))


@pytest.mark.parametrize("missing", [True, False])
def test_without_tesseract_the_reason_names_what_mends_it(
    parse: ParseHere, picture: tuple[int, int, bytes], monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    tools = Tools(ocr=missing)
    mends = "apt-get install tesseract-ocr" if missing else "RAGLINE_INGEST__OCR=true"
    monkeypatch.setattr("ragline.parsing.programs.installed", lambda *_: None if missing else "/usr/bin/tesseract")
    for data, reason in ((png(*picture), Reason.UNSUPPORTED), (scanned(picture), Reason.NO_TEXT)):
        with pytest.raises(DocumentRejected) as caught:
            parse(data, "a", tools=tools)
        assert caught.value.reason is reason
        assert mends in caught.value.next_step
    parsed = parse(scanned(["A page of text."], picture), "a.pdf", tools=tools)
    assert parsed.text == "A page of text."
    assert parsed.left_out[0].startswith("page 2: a scan, and ")
