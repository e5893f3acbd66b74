"""A table of formats whose one parser does what its document says. Children load it by name, as they load the real one."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from ragline.parsing import programs
from ragline.parsing.formats import Format
from ragline.parsing.outline import Outline

FORMATS = (Format("plain text", "hostile_formats", ("txt", ""), ("text/plain",)),)


_SAYS = (
    "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_FSIZE)[0])"
)


def _socket(family: int) -> str:
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except PermissionError:
        return "refused"
    return "made"


def parse(data: bytes, out: Outline) -> None:
    match data.decode():
        case "abort":
            os.abort()
        case "exit":
            os._exit(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case words if words.startswith("killed once "):
            begun = Path(words.removeprefix("killed once "))
            if not begun.exists():
                begun.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            out.paragraph("fine")
        case "hang":
            time.sleep(3600)
        case "hunger":
            out.paragraph(str(len(bytearray(8 << 30))))
        case "raise":
            raise KeyError("a secret from the document")
        case "print":
            print("noise", flush=True)
            os.write(1, b"\xff" * 100_000)
            sys.stdin.read()
            out.paragraph("quiet")
        case "flood":
            while True:
                out.paragraph("water " * 1000)
        case "network":
            out.paragraph(" ".join(map(_socket, (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX))))
        case "program":
            with programs.folder(out) as home:
                _, said, _ = programs.run([sys.executable, "-c", _SAYS], out, programs.Clock(out), home=home)
            out.paragraph(said.decode())
        case "slow":
            out.take_time()
            out.paragraph("slowly")
        case "slow program that hangs":
            out.take_time()
            with programs.folder(out) as home:
                (home.parents[1] / "started").write_text(str(os.getpid()))
                programs.run(["sleep", "3600"], out, programs.Clock(out), home=home)
        case "members":
            out.member("one.bin", bytes(range(256)) * 1000)
            out.member("../two.txt", b"")
            out.leave_out("three", "too heavy")
        case "environment":
            out.paragraph(" ".join(sorted(os.environ)))
        case words:
            out.paragraph(words)
