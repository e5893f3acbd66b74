"""Text with marks: reStructuredText, AsciiDoc, Org, LaTeX, notebooks, subtitles, XML. Headings and rows survive, marks go."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ragline.types import Parsed

ParseHere = Callable[..., Parsed]
TABLE = "Pond; Herons\nPond: North; Herons: 4\nPond: South; Herons: 7"


def places(parsed: Parsed) -> list[tuple[tuple[str, ...], str]]:
    return [(block.headings, parsed.text[block.start : block.end]) for block in parsed.blocks]


RST = """
======
Herons
======

They *wait* and ``stand``, see `the pond <https://example.org>`_.

.. comment that nobody reads

Counts
------

- first
- second

===== ======
Pond  Herons
===== ======
North 4
South 7
===== ======

.. code-block:: python

   wait(forever)

.. toctree::

   other-page

.. include:: /etc/passwd
.. raw:: html
   :file: /etc/passwd
"""

ADOC = """= Herons
:author: somebody

They *wait* and `stand`, see https://example.org[the pond].

== Counts
// comment
* first
* second

.How many
|===
|Pond |Herons

|North
|4

|South |7
|===

----
wait(forever)
----
"""

ORG = """#+TITLE: Herons
* Herons :birds:
:PROPERTIES:
:ID: 7
:END:
They *wait* and ~stand~, see [[https://example.org][the pond]].
** TODO Counts
# comment
| Pond  | Herons |
|-------+--------|
| North |      4 |
| South |      7 |
#+BEGIN_SRC python
wait(forever)
#+END_SRC
"""

LATEX = r"""\documentclass{article}
\title{Herons}
\begin{document}
\maketitle
They \emph{wait} \& stand~\cite{pond}. % comment
\section{Counts}
\begin{table}\begin{tabular}{l|r}
\hline Pond & Herons \\ \hline
North & 4 \\
\multicolumn{1}{l}{South} & 7 \\
\end{tabular}\end{table}
Caf\'e, na\"ive, $x^2$.
\end{document}
"""


@pytest.mark.parametrize(
    ("name", "source"), [("a.rst", RST), ("a.adoc", ADOC), ("a.org", ORG), ("a.tex", LATEX)], ids=lambda v: v[:5]
)
def test_headings_words_and_rows(parse: ParseHere, name: str, source: str) -> None:
    parsed = parse(source.encode(), name)
    found = places(parsed)
    assert parsed.title == "Herons"
    assert "They wait " in parsed.text
    assert [block.headings[-1] for block in parsed.blocks if block.table] == ["Counts"]
    assert any(text == TABLE for _, text in found)
    for gone in ("comment", "\\emph", "*wait*", "``", "#+", ":ID:", "root:", "https", "\\cite"):
        assert gone not in parsed.text
    if name != "a.tex":
        assert "wait(forever)" in parsed.text
        assert "see the pond" in parsed.text


def test_latex_letters(parse: ParseHere) -> None:
    assert "Café, naïve, x^2." in parse(LATEX.encode(), "a.tex").text


def test_sphinx_directives_keep_their_words(parse: ParseHere) -> None:
    assert "Only on Mondays." in parse(b"Title\n=====\n\n.. versionadded:: 3\n   Only on Mondays.\n", "a.rst").text


def test_a_notebook_is_its_cells_and_what_they_printed(parse: ParseHere) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Herons\n", "They *wait*."]},
        {
            "cell_type": "code", "source": "count()",
            "outputs": [
                {"output_type": "stream", "text": ["7 herons\n"]},
                {"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo", "text/plain": "<Figure>"}},
                {"output_type": "error", "traceback": ["no words"]},
            ],
        },
    ]  # fmt: skip
    parsed = parse(json.dumps({"cells": cells, "nbformat": 4, "metadata": {}}).encode(), "a.ipynb")
    assert parsed.title == "Herons"
    assert places(parsed) == [(("Herons",), "Herons\n\nThey wait.\n\ncount()\n\n7 herons\n\n<Figure>")]
    assert parse(b'{"cells": 3}', "a.ipynb").text == '{"cells": 3}'


def test_subtitles_are_what_is_said_and_when(parse: ParseHere) -> None:
    srt = "1\r\n00:00:01,000 --> 00:00:03,000\r\n<i>Herons</i> wait\r\n\r\n"
    srt += "2\r\n00:00:03,000 --> 00:00:04,000\r\nfor fish.\r\n\r\n"
    assert parse(f"{srt}3\n01:02:03,500 --> 01:02:04,000\nThen they go.\n".encode(), "a.srt").text == (
        "[0:00:00] Herons wait\nfor fish.\n\n[1:02:00] Then they go."
    )
    vtt = "WEBVTT - birds\n\nNOTE by us\n\nSTYLE\n::cue {}\n\nintro\n00:01.000 --> 00:02.000 align:left\n"
    vtt += "<v Ann>Look, <c.loud>herons</c>!\n"
    parsed = parse(vtt.encode(), "a.bin", "application/octet-stream")
    assert parsed.text == "- birds\n\nby us\n\n[0:00:00] Ann: Look, herons!"
    assert parse(b"no cue at all", "a.srt").text == "no cue at all"


def test_xml_records_are_rows_and_prose_is_prose(parse: ParseHere) -> None:
    records = (
        "<pond id='1'><name>North</name><herons>4</herons></pond><pond><name>South</name><herons>7</herons></pond>"
    )
    records = f"<ponds>{records}</ponds>"
    assert (
        parse(f"<?xml version='1.0'?>{records}".encode(), "a.xml").text
        == "name: North; herons: 4\n\nname: South; herons: 7"
    )
    book = "<book><title>Herons</title><chapter><title>Waiting</title><para>They <em>wait</em> long.</para></chapter></book>"
    parsed = parse(book.encode(), "a.xml")
    assert parsed.title == "Herons"
    assert places(parsed)[-1] == (("Herons", "Waiting"), "Waiting\n\nThey wait long.")


def test_feeds_carry_pages_and_xml_comes_in_any_encoding(parse: ParseHere) -> None:
    page = "&lt;p&gt;Цапли &lt;b&gt;ждут&lt;/b&gt;.&lt;/p&gt;"
    feed = f"<rss><channel><item><title>Новости</title><description>{page}</description></item></channel></rss>"
    for codec in ("koi8-r", "utf-16", "utf-8"):
        text = f'<?xml version="1.0" encoding="{codec}"?>{feed}'
        assert parse(text.encode(codec), "a.xml").text == "title: Новости\n\nЦапли ждут."


def test_xml_that_is_none_is_read_as_far_as_it_goes(parse: ParseHere) -> None:
    assert "Herons wait" in parse(b"<?xml version='1.0'?><a><b>Herons wait</a>", "a.xml").text
    assert parse(b"just words", "a.xml").text == "just words"
