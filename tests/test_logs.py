"""Log lines of a server are JSON for a collector: ours, a library's, and a defect's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

PROGRAM = """
import logging, structlog
from ragline import logs
log = structlog.get_logger()
logs.configure("info")
log.debug("unseen")
log.info("seen", document="d1")
logging.getLogger("uvicorn.error").info("unseen")
logging.getLogger("uvicorn.error").error("Exception in ASGI application\\n")
logging.getLogger("elastic_transport.transport").info("GET [status:200]")
logging.getLogger("some.library").warning("odd %s", "thing")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("defect", exc_info=error)
"""


def test_lines_are_json_from_the_level_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "seen"),
        ("warning", "odd thing"),
        ("error", "defect"),
    ]
    assert lines[0]["document"] == "d1"
    assert "ZeroDivisionError" in lines[2]["exception"]
    assert all("timestamp" in line for line in lines)


def test_a_terminal_shows_no_variables() -> None:
    """What stands in them is a user's: a query, a key."""
    main, terminal = os.openpty()
    program = "import structlog\nfrom ragline import logs\nlogs.configure('info')\ndef f(key):\n    return 1 / key\n"
    program += "try:\n    f(0 * int('4711'))\nexcept ZeroDivisionError as error:\n    secret = 'hush' + '-hush'\n"
    program += "    structlog.get_logger().error('defect', exc_info=error)\n"
    subprocess.run([sys.executable, "-c", program], stderr=terminal, check=True)
    said = os.read(main, 1 << 16).decode()
    os.close(main)
    os.close(terminal)
    assert "ZeroDivisionError" in said
    assert "hush-hush" not in said
