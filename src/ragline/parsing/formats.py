"""The table of formats. A new format is one file with ``parse(data, out)`` and one line here.

Only strings: the module behind a line, and the library behind that, are imported when a first document needs them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from ragline.parsing.outline import Outline

Parse: TypeAlias = Callable[[bytes, Outline], None]

RECORD_MEDIA_TYPE = "application/vnd.ragline.record+json"
"""One line of a records file, ``{"_id", "title", "text", ...}``: `text` is taken exactly as it is."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a kind of document is known, and who reads it.

    endings:   of file names, lower case, no dot. A format without any is known by its media type alone.
    magic:     how it begins, as a regular expression; a text format is looked at past white space, in lower case.
    member:    how a path begins that an Office package (a zip) of this format holds.
    streams:   names of streams that an OLE file (what Office wrote before 2007) of this format holds one of.
    binary:    never plain text: a text under this format's ending is read as the text it is.
    container: holds other documents, and is told only when nothing else is.
    """

    name: str
    module: str
    endings: tuple[str, ...]
    media_types: tuple[str, ...]
    magic: bytes = b""
    member: str = ""
    streams: tuple[str, ...] = ()
    binary: bool = False
    container: bool = False

    def load(self) -> Parse:
        return cast(Parse, importlib.import_module(self.module, __package__).parse)


_OOXML = "application/vnd.openxmlformats-officedocument"
_MS = "application/vnd.ms-"
_ODF = "application/vnd.oasis.opendocument"


def _odf(name: str, module: str, ending: str, kind: str) -> Format:
    magic = rf"PK.{{28}}mimetype{re.escape(_ODF)}\.{kind}".encode()
    types = (f"{_ODF}.{kind}", f"{_ODF}.{kind}-template")
    return Format(name, module, (ending, ending.replace("od", "ot")), types, magic=magic, binary=True)


FORMATS: tuple[Format, ...] = (
    Format("PDF", ".pdf", ("pdf",), ("application/pdf",), magic=rb"(?!PK\x03\x04|.{257}ustar).{0,1020}%PDF", binary=True),
    Format("Word (DOCX)", ".docx", ("docx", "docm", "dotx"),
        (f"{_OOXML}.wordprocessingml.document", f"{_OOXML}.wordprocessingml.template"), member="word/", binary=True),
    Format("PowerPoint (PPTX)", ".pptx", ("pptx", "pptm", "potx", "ppsx"),
        (f"{_OOXML}.presentationml.presentation", f"{_OOXML}.presentationml.slideshow"), member="ppt/", binary=True),
    Format("Excel (XLSX)", ".sheets", ("xlsx", "xlsm", "xltx", "xlsb"), (f"{_OOXML}.spreadsheetml.sheet",),
        member="xl/", binary=True),
    _odf("OpenDocument text (ODT)", ".odf", "odt", "text"),
    _odf("OpenDocument sheets (ODS)", ".sheets", "ods", "spreadsheet"),
    _odf("OpenDocument slides (ODP)", ".odf", "odp", "presentation"),
    Format("EPUB", ".epub", ("epub",), ("application/epub+zip",),
        magic=rb"PK.{28}mimetypeapplication/epub\+zip", binary=True),
    Format("RTF", ".rtf", ("rtf",), ("application/rtf", "text/rtf"), magic=rb"\{\\rtf"),
    Format("Word before 2007 (DOC)", ".legacy", ("doc", "dot"), ("application/msword",), streams=("WordDocument",), binary=True),
    Format("PowerPoint before 2007 (PPT)", ".legacy", ("ppt", "pps"), (f"{_MS}powerpoint",),
        streams=("PowerPoint Document",), binary=True),
    Format("Excel before 2007 (XLS)", ".sheets", ("xls", "xlt"), (f"{_MS}excel",), streams=("Workbook", "Book"), binary=True),
    Format("Outlook message (MSG)", ".outlook", ("msg",), (f"{_MS}outlook",), streams=("__properties_version1.0",), binary=True),
    Format("mail (EML)", ".mail", ("eml", "mht", "mhtml"), ("message/rfc822",)),
    Format("HTML", ".html", ("html", "htm", "xhtml"), ("text/html", "application/xhtml+xml"),
        magic=rb"<!doctype html|<html"),
    Format("Markdown", ".markdown", ("md", "markdown", "mdx"), ("text/markdown", "text/x-markdown")),
    Format("reStructuredText", ".rst", ("rst", "rest"), ("text/x-rst", "text/prs.fallenstein.rst")),
    Format("AsciiDoc", ".asciidoc", ("adoc", "asciidoc", "asc"), ("text/asciidoc",)),
    Format("Org", ".org", ("org",), ("text/org", "text/x-org")),
    Format("LaTeX", ".latex", ("tex", "latex"), ("application/x-tex", "text/x-tex", "application/x-latex")),
    Format("Jupyter notebook", ".notebook", ("ipynb",), ("application/x-ipynb+json",)),
    Format("subtitles (SRT, VTT)", ".subtitles", ("srt", "vtt"), ("application/x-subrip", "text/vtt"), magic=rb"webvtt"),
    Format("CSV", ".tables", ("csv", "tsv", "tab"), ("text/csv", "text/tab-separated-values")),
    Format("JSON", ".jsonl", ("json", "jsonl", "ndjson"),
        ("application/json", "application/jsonl", "application/x-ndjson")),
    Format("XML", ".xml", ("xml", "rss", "atom", "rdf", "dbk", "docbook", "tei"),
        ("application/xml", "text/xml", "application/rss+xml", "application/atom+xml"), magic=rb"<\?xml"),
    Format("an image (OCR)", ".image", ("png", "jpg", "jpeg", "tif", "tiff", "gif", "bmp", "webp", "pnm", "jp2"),
        ("image/png", "image/jpeg", "image/tiff", "image/gif", "image/bmp", "image/webp", "image/jp2"),
        magic=rb"\x89PNG|\xff\xd8\xff|II\*\0|MM\0\*|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|\0\0\0\x0cjP", binary=True),
    Format("ZIP, TAR, GZ", ".archive", ("zip", "tar", "gz", "tgz", "bz2", "tbz2", "xz", "txz"),
        ("application/zip", "application/x-tar", "application/gzip", "application/x-bzip2", "application/x-xz"),
        magic=rb"PK\x03\x04|PK\x05\x06|\x1f\x8b|BZh[1-9]|\xfd7zXZ|.{257}ustar", binary=True, container=True),
    Format("a record", ".record", (), (RECORD_MEDIA_TYPE,)),
    Format("plain text", ".text", ("txt", "text", "log"), ("text/plain",)),
)  # fmt: skip
