"""Programs that read what no library does, Tesseract and LibreOffice: called by a child of the pool, inside limits.

A program shares the child's session, so that whoever ends the child ends it too, and its ban from the network.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ragline.errors import DocumentRejected, Reason
from ragline.parsing.isolation import die_with_parent
from ragline.parsing.outline import Outline

MAX_FILE_BYTES = 1 << 30
"""Largest file that a program may write."""


def installed(*names: str) -> str | None:
    """The path of the first of these programs that is there."""
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def folder(out: Outline) -> Iterator[Path]:
    """A folder for one document, removed afterwards; where the child is killed, the pool removes it."""
    if out.scratch is not None:
        out.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.scratch) as path:
        yield Path(path)


class Clock:
    """The time that all programs called for one document may take together."""

    def __init__(self, out: Outline) -> None:
        self._timeout_s = out.limits.tools.timeout_s
        self._end = time.monotonic() + self._timeout_s

    @property
    def left_s(self) -> float:
        return self._end - time.monotonic()

    def over(self, program: str) -> DocumentRejected:
        return DocumentRejected(
            Reason.TIMEOUT,
            f"{program} took longer than {self._timeout_s:g} s over the document.",
            next_step="Split it, or raise RAGLINE_INGEST__TOOL_TIMEOUT_S.",
        )


def run(
    command: Sequence[str], out: Outline, clock: Clock, *, home: Path, given: bytes = b""
) -> tuple[int, bytes, str]:
    """Exit code, output, and the end of what was said on stderr. Raises DocumentRejected(TIMEOUT)."""
    if clock.left_s <= 0:
        raise clock.over(Path(command[0]).name)

    def limit() -> None:  # in the new process, which has one thread
        die_with_parent()
        _lower(resource.RLIMIT_AS, out.limits.tools.memory_bytes)
        _lower(resource.RLIMIT_FSIZE, MAX_FILE_BYTES)
        _lower(resource.RLIMIT_CPU, int(out.limits.tools.timeout_s) + 1)

    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "TMPDIR": str(home)}
    environment |= {"LANG": "C.UTF-8", "OMP_THREAD_LIMIT": "1"}
    with (home / "output").open("w+b") as output, (home / "said").open("w+b") as said:
        try:
            done = subprocess.run(
                command, input=given, stdout=output, stderr=said, timeout=clock.left_s, preexec_fn=limit,
                env=environment, cwd=home, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise clock.over(Path(command[0]).name) from error
        output.seek(0)
        said.seek(0)
        return done.returncode, output.read(), said.read()[-2000:].decode("utf-8", "replace")


def _lower(which: int, to: int) -> None:
    """Set the soft limit, as far as the hard one allows: the child's own limit of memory is meant for Python."""
    hard = resource.getrlimit(which)[1]
    resource.setrlimit(which, (to if hard == resource.RLIM_INFINITY else min(to, hard), hard))
