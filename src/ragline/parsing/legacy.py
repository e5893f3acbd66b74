"""DOC and PPT, and what else writers and presenters used before 2007: LibreOffice saves them in the format of today."""

from __future__ import annotations

from ragline.errors import DocumentRejected, Reason
from ragline.parsing import docx, pptx, programs
from ragline.parsing.outline import Outline

_SLIDES = "PowerPoint Document".encode("utf-16-le")
INSTALL = (
    "Install LibreOffice (`apt-get install libreoffice-writer-nogui libreoffice-impress-nogui`,"
    " `brew install --cask libreoffice`), then `ragline documents retry ID`"
)


def parse(data: bytes, out: Outline) -> None:
    """Raises DocumentRejected: UNSUPPORTED (LibreOffice is not to be had here), DAMAGED, TIMEOUT; Postponed."""
    ending = out.name.lower().rpartition(".")[2]
    target = "pptx" if _SLIDES in data or ending in ("ppt", "pps") else "docx"
    program = programs.installed("soffice", "libreoffice")
    if program is None or not out.limits.tools.office:
        switch = "Set RAGLINE_INGEST__OFFICE=true, then `ragline documents retry ID`"
        raise DocumentRejected(
            Reason.UNSUPPORTED,
            "The document is an Office file from before 2007 (DOC or PPT), which LibreOffice could read, but it is "
            + ("switched off." if program else "not installed."),
            next_step=f"{switch if program else INSTALL}; or save it as {target.upper()}.",
        )
    out.take_time()
    converted = _converted(data, program, target, out)
    (docx if target == "docx" else pptx).parse(converted, out)


def _converted(data: bytes, program: str, target: str, out: Outline) -> bytes:
    with programs.folder(out) as home:
        source = home / ("given.ppt" if target == "pptx" else "given.doc")
        source.write_bytes(data)
        command = (
            program, f"-env:UserInstallation={(home / 'profile').as_uri()}", "--headless", "--norestore",
            "--convert-to", target, "--outdir", str(home / "saved"), str(source),
        )  # fmt: skip
        programs.run(command, out, programs.Clock(out), home=home)
        saved = home / "saved" / f"given.{target}"
        if not saved.exists():
            raise DocumentRejected(
                Reason.DAMAGED,
                "LibreOffice could not open the document: it is damaged, under a password, or of another kind.",
                next_step=f"Open it in the program that made it, save it as {target.upper()}, and upload that copy.",
            )
        return saved.read_bytes()
