"""A table of formats whose one parser does what its document says. Children load it by name, as they load the real one."""

from __future__ import annotations

import os
import signal
import sys
import time

from ragline.parsing.formats import Format
from ragline.parsing.outline import Outline

FORMATS = (Format("plain text", "hostile_formats", ("txt", ""), ("text/plain",)),)


def parse(data: bytes, out: Outline) -> None:
    match data.decode():
        case "abort":
            os.abort()
        case "exit":
            os._exit(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
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
        case "environment":
            out.paragraph(" ".join(sorted(os.environ)))
        case words:
            out.paragraph(words)
