"""Slides, sheets, OpenDocument, RTF and books: pages, sheet names, headings and rows survive."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import docx
import pytest

from ragline.errors import DocumentRejected, Reason
from ragline.types import Parsed
from tests.parsing.packages import ODF_NAMES, epub, odf, pptx, shape, table, xlsx

_FLAT_SLIDES = (
    f'<?xml version="1.0"?>\n<office:document {ODF_NAMES} xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0"'
    ' office:version="1.2" office:mimetype="application/vnd.oasis.opendocument.presentation"><office:body>'
    '<office:presentation><draw:page draw:name="a"><draw:frame svg:width="9cm" svg:height="3cm" svg:x="1cm" svg:y="1cm">'
    "<draw:text-box><text:p>Herons wait long.</text:p></draw:text-box></draw:frame></draw:page></office:presentation>"
    "</office:body></office:document>"
)

ParseHere = Callable[..., Parsed]
OFFICE = shutil.which("soffice")
needs_office = pytest.mark.skipif(OFFICE is None and not os.environ.get("CI"), reason="LibreOffice is not installed")


def places(parsed: Parsed) -> list[tuple[int | None, tuple[str, ...], str]]:
    return [(block.page, block.headings, parsed.text[block.start : block.end]) for block in parsed.blocks]


def test_slides_are_pages_with_their_title_tables_and_notes(parse: ParseHere) -> None:
    first = shape("Plans for herons", kind="title") + shape("More ponds", "Fewer cats") + shape("1", kind="sldNum")
    second = table(("Pond", "Herons"), ("North", "4"), ("South", "7"))
    parsed = parse(pptx(first, second, notes="Say that cats are meant kindly."), "a.pptx")
    assert parsed.title == "Plans for herons"
    assert places(parsed) == [
        (1, ("Plans for herons",), "Plans for herons\n\nMore ponds\nFewer cats\n\nSay that cats are meant kindly."),
        (2, ("Slide 2",), "Pond; Herons\nPond: North; Herons: 4\nPond: South; Herons: 7"),
    ]


def test_sheets_stand_under_their_names_and_rows_name_their_columns(parse: ParseHere) -> None:
    herons: list[list[str | float]] = [
        ["Herons by pond"],
        ["Pond", "Count", "Share"],
        ["North", 4.0, 0.25],
        ["South", 12.0, 0.75],
        [],
        ["Source: us"],
    ]
    parsed = parse(xlsx(Herons=herons, Empty=[], Cats=[["Name", "Age"], ["Tom", 3.5]]), "a.xlsx")
    assert places(parsed) == [
        (None, ("Herons",), "Herons\n\nHerons by pond"),
        (
            None,
            ("Herons",),
            "Pond; Count; Share\nPond: North; Count: 4; Share: 0.25\nPond: South; Count: 12; Share: 0.75",
        ),
        (None, ("Herons",), "Source: us"),
        (None, ("Cats",), "Cats"),
        (None, ("Cats",), "Name; Age\nName: Tom; Age: 3.5"),
    ]


def test_a_workbook_of_nothing_is_empty(parse: ParseHere) -> None:
    with pytest.raises(DocumentRejected) as caught:
        parse(xlsx(One=[]), "a.xlsx")
    assert caught.value.reason is Reason.EMPTY


def test_opendocument_text(parse: ParseHere) -> None:
    body = (
        '<text:h text:outline-level="1">Herons</text:h>'
        '<text:p>They <text:span>wait</text:span><text:s text:c="2"/>long<text:note><text:note-body><text:p>Very.</text:p>'
        "</text:note-body></text:note>.<text:line-break/>Then eat.</text:p>"
        "<text:tracked-changes><text:p>Deleted.</text:p></text:tracked-changes>"
        '<text:h text:outline-level="2">Ponds</text:h>'
        "<table:table><table:table-row><table:table-cell><text:p>Pond</text:p></table:table-cell><table:table-cell>"
        "<text:p>Herons</text:p></table:table-cell></table:table-row><table:table-row><table:table-cell><text:p>North"
        '</text:p></table:table-cell><table:table-cell table:number-columns-repeated="99999999"><text:p>4</text:p>'
        "</table:table-cell></table:table-row></table:table>"
    )
    parsed = parse(odf("text", body, title="On herons"), "a.odt")
    assert parsed.title == "On herons"
    found = places(parsed)
    assert found[0] == (None, ("Herons",), "Herons\n\nThey wait long.\nThen eat.\n\nVery.")
    assert found[2][1] == ("Herons", "Ponds")
    assert found[2][2].startswith("Pond; Herons\nPond: North; Herons: 4")


def test_opendocument_slides_and_sheets(parse: ParseHere) -> None:
    body = (
        '<draw:page><draw:frame presentation:class="title"><draw:text-box><text:p>Ponds</text:p></draw:text-box></draw:frame>'
        "<draw:frame><draw:text-box><text:p>North and South</text:p></draw:text-box></draw:frame><presentation:notes>"
        "<draw:frame><draw:text-box><text:p>Mention the cats.</text:p></draw:text-box></draw:frame></presentation:notes>"
        "</draw:page><draw:page><draw:frame><draw:text-box><text:p>The end</text:p></draw:text-box></draw:frame></draw:page>"
    )
    assert places(parse(odf("presentation", body), "a.odp")) == [
        (1, ("Ponds",), "Ponds\n\nNorth and South\n\nMention the cats."),
        (2, ("Slide 2",), "The end"),
    ]
    rows = "".join(
        "<table:table-row>"
        + "".join(f'<table:table-cell office:value-type="string"><text:p>{c}</text:p></table:table-cell>' for c in row)
        + "</table:table-row>"
        for row in (("Pond", "Herons"), ("North", "four"))
    )
    sheet = odf("spreadsheet", f'<table:table table:name="Counts">{rows}</table:table>')
    assert parse(sheet, "a.ods").text == "Counts\n\nPond; Herons\nPond: North; Herons: four"


def test_rtf_paragraphs_and_tables_in_any_code_page(parse: ParseHere) -> None:
    cells = r"\trowd Pond\cell Herons\cell\row\trowd North\cell 4\cell\row\pard "
    data = rb"{\rtf1\ansi\ansicpg1252{\info{\title On herons}}Gro\'dfe V\'f6gel \u8211? und mehr.\par " + cells.encode()
    parsed = parse(data + rb"Ende.\par}", "a.rtf")
    assert parsed.title == "On herons"
    assert parsed.text == "Große Vögel – und mehr.\n\nPond; Herons\nPond: North; Herons: 4\n\nEnde."


def test_a_book_is_its_chapters_in_reading_order(parse: ParseHere) -> None:
    page = "<html xmlns='http://www.w3.org/1999/xhtml'><head><title/></head><body><h1>{}</h1><p>{}</p></body></html>"
    chapters = {"one.xhtml": page.format("One", "It began."), "two.xhtml": page.format("Two", "It ended.")}
    parsed = parse(epub(chapters, title="A Tale"), "a.epub")
    assert parsed.title == "A Tale"
    assert places(parsed) == [(None, ("One",), "One\n\nIt began."), (None, ("Two",), "Two\n\nIt ended.")]


@pytest.mark.parametrize("ending", ["pptx", "xlsx", "odt", "odp", "ods", "epub", "docx"])
def test_a_package_is_known_by_its_content_whatever_its_name(parse: ParseHere, ending: str) -> None:
    made = {
        "pptx": pptx(shape("Words")), "xlsx": xlsx(A=[["Words"]]), "odt": odf("text", "<text:p>Words</text:p>"),
        "odp": odf("presentation", "<draw:page><draw:frame><text:p>Words</text:p></draw:frame></draw:page>"),
        "ods": odf("spreadsheet", '<table:table table:name="A"><table:table-row><table:table-cell '
                   'office:value-type="string"><text:p>Words</text:p></table:table-cell></table:table-row></table:table>'),
        "epub": epub({"a": "<p>Words</p>"}, title="T"), "docx": _docx("Words"),
    }  # fmt: skip
    for name in ("a.zip", "a.txt", "a", f"a.{ending}"):
        assert parse(made[ending], name).text.endswith("Words")


@needs_office
@pytest.mark.parametrize(("source", "target"), [("docx", "doc"), ("fodp", "ppt")])
def test_what_office_wrote_before_2007(parse: ParseHere, tmp_path: Path, source: str, target: str) -> None:
    (tmp_path / f"a.{source}").write_bytes(_docx("Herons wait long.") if source == "docx" else _FLAT_SLIDES.encode())
    assert OFFICE is not None
    given, profile = str(tmp_path / f"a.{source}"), f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    command = [OFFICE, profile, "--headless", "--convert-to", target, "--outdir", str(tmp_path), given]
    subprocess.run(command, check=True, capture_output=True)
    assert "Herons wait long." in parse((tmp_path / f"a.{target}").read_bytes(), "a.bin").text


def test_without_libreoffice_the_reason_names_the_command(parse: ParseHere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragline.parsing.programs.installed", lambda *_: None)
    data = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512) + "WordDocument".encode("utf-16-le")
    with pytest.raises(DocumentRejected) as caught:
        parse(data, "a.doc")
    assert caught.value.reason is Reason.UNSUPPORTED
    assert "apt-get install libreoffice-writer-nogui" in caught.value.next_step


def _docx(text: str) -> bytes:
    document = docx.Document()
    document.add_paragraph(text)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()
