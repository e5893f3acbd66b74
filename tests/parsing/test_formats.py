"""Each format: text, place, title."""

from __future__ import annotations

from collections.abc import Callable

import docx
import pytest
from docx.enum.text import WD_BREAK
from docx.oxml import OxmlElement

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.formats import RECORD_MEDIA_TYPE
from ragline.types import Parsed

ParseHere = Callable[..., Parsed]


def places(parsed: Parsed) -> list[tuple[tuple[str, ...], str]]:
    return [(block.headings, parsed.text[block.start : block.end]) for block in parsed.blocks]


# ── PDF ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pdf_pages_title_and_hyphens(parse: ParseHere, make_pdf: Callable[..., bytes]) -> None:
    data = make_pdf(
        [["Water is a molec-", "ule of well-known", "and well-", "known parts."], [], ["Page three."]], title="On Water"
    )
    parsed = parse(data, "water.pdf")
    assert parsed.title == "On Water"
    assert [block.page for block in parsed.blocks] == [1, 3]
    assert parsed.text.split() == "Water is a molecule of well-known and well-known parts. Page three.".split()


@pytest.mark.parametrize("title", ["untitled", "Microsoft Word - draft7.doc", "scan001.pdf", "1234567", "x"])
def test_pdf_titles_that_programs_leave_are_none(parse: ParseHere, make_pdf: Callable[..., bytes], title: str) -> None:
    assert parse(make_pdf([["Words."]], title=title), "a.pdf").title is None


def test_pdf_with_an_empty_password_opens(parse: ParseHere, make_pdf: Callable[..., bytes]) -> None:
    assert parse(make_pdf([["Open to all."]], password=""), "a.pdf").text == "Open to all."


def test_pdf_junk_before_the_header_and_none_at_all(parse: ParseHere, make_pdf: Callable[..., bytes]) -> None:
    data = make_pdf([["Still here."]])
    assert parse(b"junk\n" + data, "a.pdf").text == "Still here."
    assert parse(data.removeprefix(b"%PDF-1.4\n"), "a.pdf").text == "Still here."


# ── DOCX ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_docx_headings_tables_and_title(
    parse: ParseHere, make_docx: Callable[[Callable[[docx.document.Document], object]], bytes]
) -> None:
    def write(document: docx.document.Document) -> None:
        document.add_heading("Handbook", 1)
        document.add_paragraph("Welcome.")
        document.add_heading("Leave", 2)
        table = document.add_table(3, 2)
        for row, cells in zip(table.rows, [("Kind", "Days"), ("Annual", "30"), ("Sick", "10")], strict=True):
            for cell, text in zip(row.cells, cells, strict=True):
                cell.text = text
        document.add_heading("Travel", 2)
        document.add_paragraph("By train.").add_run().add_break(WD_BREAK.PAGE)

    parsed = parse(make_docx(write), "handbook.docx")
    assert parsed.title == "Handbook"
    assert places(parsed) == [
        (("Handbook",), "Handbook\n\nWelcome."),
        (("Handbook", "Leave"), "Leave"),
        (("Handbook", "Leave"), "Kind; Days\nKind: Annual; Days: 30\nKind: Sick; Days: 10"),
        (("Handbook", "Travel"), "Travel\n\nBy train."),
    ]
    assert [block.table for block in parsed.blocks] == [False, False, True, False]


def test_docx_deleted_text_goes_inserted_stays(
    parse: ParseHere, make_docx: Callable[[Callable[[docx.document.Document], object]], bytes]
) -> None:
    def write(document: docx.document.Document) -> None:
        paragraph = document.add_paragraph("Kept ")
        for tag, word in (("w:ins", "inserted"), ("w:del", "deleted")):
            change = OxmlElement(tag)
            change.append(paragraph.add_run(word)._r)
            paragraph._p.append(change)
        document.core_properties.title = "Given Title"

    parsed = parse(make_docx(write), "a.docx")
    assert (parsed.text, parsed.title) == ("Kept inserted", "Given Title")


# ── HTML ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

PAGE = """<!doctype html><html><head><title>Leave | Example Ltd</title><style>p {}</style></head><body>
<nav><a href=/>Home</a> <a href=/about>About</a></nav>
<div class="cookie-banner">We use cookies. <button>Accept</button></div>
<header><img src=x> Example Ltd</header>
<main><h1>Leave</h1><p>Everyone gets <b>thirty</b>
days.</p><script>alert(1)</script><h2>Sick leave</h2><ul><li>Call in.<li><p>Send a note.</p></ul>
<pre>if ill:
    rest()</pre>
<table><caption>Days</caption><tr><th>Kind</th><th>Days</th></tr>
<tr><td rowspan=2>Annual</td><td>30</td></tr><tr><td>31</td></tr></table>
<p hidden>Hidden.</p></main>
<footer>© Example Ltd</footer></body></html>"""


def test_html_keeps_the_content_and_its_place(parse: ParseHere) -> None:
    parsed = parse(PAGE.encode(), "leave.html")
    assert parsed.title == "Leave"
    assert places(parsed) == [
        (("Leave",), "Leave\n\nEveryone gets thirty days."),
        (("Leave", "Sick leave"), "Sick leave\n\n- Call in.\n\n- Send a note.\n\nif ill:\n    rest()\n\nDays"),
        (("Leave", "Sick leave"), "Kind; Days\nKind: Annual; Days: 30\nKind: Annual; Days: 31"),
    ]


@pytest.mark.parametrize(
    "page",
    [
        "<nav><p>All of the content stands in a menu, as some pages do.</p></nav>",
        "<footer><p>All of the content stands in a menu, as some pages do.</p></footer><p>x</p>",
        "<div role=dialog><p>All of the content stands in a menu, as some pages do.</p></div>",
    ],
)
def test_html_content_is_never_lost_to_boilerplate(parse: ParseHere, page: str) -> None:
    assert "All of the content" in parse(f"<html><body>{page}</body></html>".encode(), "a.html").text


def test_html_layout_tables_and_recipes_are_content(parse: ParseHere) -> None:
    page = """<html><body class="cookie-recipe"><table><tr><td><table><tr><td>Butter</td><td>100 g</td></tr>
        <tr><td>Sugar</td><td>50 g</td></tr></table></td></tr></table><div class="cookie-list">Oat. Ginger.</div></body></html>"""
    text = parse(page.encode(), "a.html").text
    assert "Butter; 100 g" in text
    assert "Oat. Ginger." in text


def test_html_of_any_depth_and_width(parse: ParseHere) -> None:
    assert parse(b"<html>" + b"<div>" * 5_000 + b"deep", "a.html").text == "deep"
    wide = b"<html><table><tr><td colspan=999999999>a</td><td>b</td></tr><tr><td>c</td><td>d</td></tr></table>"
    assert "c; d" in parse(wide, "a.html").text


def test_html_declares_its_encoding(parse: ParseHere) -> None:
    page = '<html><head><meta charset="windows-1251"></head><body><p>Привет, мир</p></body></html>'
    assert parse(page.encode("cp1251"), "a.html").text == "Привет, мир"


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────────────

MARKDOWN = """---
title: "The Guide"
---
Intro with a [link](http://example.org) and `code`.

# One #

Setext
------

1. first
2. second

```python
# no heading
x  =  1
```

| A | B |
|---|---|
| 1 | *2* |

<div>Some <b>HTML</b></div>
"""


def test_markdown(parse: ParseHere) -> None:
    parsed = parse(MARKDOWN.encode(), "a.md")
    assert parsed.title == "The Guide"
    assert places(parsed) == [
        ((), "Intro with a link and code."),
        (("One",), "One"),
        (("One", "Setext"), "Setext\n\n1. first\n\n2. second\n\n# no heading\nx  =  1"),
        (("One", "Setext"), "A; B\nA: 1; B: 2"),
        (("One", "Setext"), "Some HTML"),
    ]


def test_markdown_of_front_matter_only_and_titled_by_heading(parse: ParseHere) -> None:
    assert parse(b"---\nredirect: /there\n---\n", "a.md").text == "redirect: /there"
    assert parse(b"# Hello *there*\n\nText", "a.md").title == "Hello there"


def test_long_markdown_goes_in_pieces_without_loss(parse: ParseHere) -> None:
    sections = [f"## Section {i}\n\n" + f"Word{i} " * 300 + "\n\n```\n# code\n```\n\n" for i in range(300)]
    parsed = parse("".join(sections).encode(), "a.md")
    assert [block.headings for block in parsed.blocks] == [(f"Section {i}",) for i in range(300)]
    assert parsed.text.count("# code") == 300


def test_very_long_markdown_keeps_its_headings(parse: ParseHere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragline.parsing.markdown.PLAIN_CHARS", 10)
    parsed = parse(b"Intro\n\n# One #\n\n*Text*\n```\n# code\n```\n## Two\n\nMore", "a.md")
    assert parsed.title == "One"
    assert places(parsed) == [
        ((), "Intro"),
        (("One",), "One\n\n*Text*\n```\n# code\n```"),
        (("One", "Two"), "Two\n\nMore"),
    ]


# ── tables, JSON, records ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_rows_name_their_columns(parse: ParseHere, delimiter: str) -> None:
    rows = [["Team", "City", "Cups"], ["Blues", "St. Louis", "1"], ["Leafs", "", "13"]]
    parsed = parse("\n".join(delimiter.join(row) for row in rows).encode(), "a.csv")
    assert parsed.text == "Team; City; Cups\nTeam: Blues; City: St. Louis; Cups: 1\nTeam: Leafs; Cups: 13"
    assert [block.table for block in parsed.blocks] == [True]


def test_csv_captions_and_headless_tables(parse: ParseHere) -> None:
    assert (
        parse(b"Cups,,\nTeam,City,Cups\nBlues,STL,1\n", "a.csv").text
        == "Cups\n\nTeam; City; Cups\nTeam: Blues; City: STL; Cups: 1"
    )
    assert parse(b"1,2\n3,4\n", "a.csv").text == "1; 2\n3; 4"
    assert "never closed" in parse(b'a,b\n"never closed,1\n2,3\n', "a.csv").text


def test_json_objects_are_rows_and_numbers_keep_their_digits(parse: ParseHere) -> None:
    data = b'[{"name": "Ada", "born": {"year": 1815}, "x": 1.10}, {"name": "Bob", "ok": true, "tags": ["a", "b"]}]'
    assert parse(data, "a.json").text == "name: Ada; born.year: 1815; x: 1.10\nname: Bob; ok: true; tags: a; tags: b"
    nested = b'{"title": "T", "items": [{"a": 1}, {"a": 2}], "huge": ' + b"9" * 5000 + b"}"
    parsed = parse(nested, "a.json")
    assert places(parsed)[-1] == (("items",), "a: 1\na: 2")
    assert "9" * 5000 in parsed.text


def test_json_lines_with_a_broken_one(parse: ParseHere) -> None:
    assert parse(b'{"a": "x"}\nnot json\n{"a": "y"}\n', "a.jsonl").text == "a: x\n\nnot json\n\na: y"


def test_json_nested_beyond_reason_stays_text(parse: ParseHere) -> None:
    deep = "[" * 200_000 + "1" + "]" * 200_000
    assert parse(deep.encode(), "a.json").text == deep


def test_a_records_text_is_exact(parse: ParseHere) -> None:
    data = b'{"_id": "1", "title": "On  Water", "text": "  Two  spaces,\\ta tab \\ud83d\\ude00 and \\u00ad.", "metadata": {}}'
    parsed = parse(data, "corpus.jsonl#1", RECORD_MEDIA_TYPE)
    assert parsed.text == "  Two  spaces,\ta tab \U0001f600 and \u00ad."
    assert parsed.title == "On Water"


def test_a_record_without_text_is_its_title_and_one_without_either_is_empty(parse: ParseHere) -> None:
    assert parse(b'{"title": "Only this", "text": ""}', "r", RECORD_MEDIA_TYPE).text == "Only this"
    for data, reason in ((b'{"text": " "}', Reason.EMPTY), (b"[1]", Reason.DAMAGED), (b"{", Reason.DAMAGED)):
        with pytest.raises(DocumentRejected) as caught:
            parse(data, "r", RECORD_MEDIA_TYPE)
        assert caught.value.reason is reason
