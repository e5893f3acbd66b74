"""Bytes to text. `pool.ParserPool` is the way in; the rest runs in its child processes.

    pool ──frames──> child ── detect (which format?) ── formats (the table) ── pdf, docx, html, … ── outline → Parsed

A format is one file with ``parse(data: bytes, out: Outline) -> None`` and one line in `formats.FORMATS`. This file
imports nothing, so that a child starts light and loads a format's library when the first such document comes.
"""
