"""A real Varnish with our VCL (deploy/varnish) in front of an origin that a test names.

varnishd compiles VCL, so it wants gcc. There is no server of the user's to be given: it must stand before the test's own
origin.
"""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.engines.server import free_port, missing, running

VCL = Path(__file__).resolve().parents[2] / "deploy" / "varnish"


class Varnish:
    """`url`: for readers.   `edge`: as `edge.url` is set."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.edge = f"varnish://127.0.0.1:{port}"


@contextmanager
def varnish(origin_port: int, *, purgers: str = "127.0.0.1") -> Iterator[Varnish]:
    """One of its own, until the block ends. `purgers`: the one address that may purge."""
    program = shutil.which("varnishd") or shutil.which("/usr/sbin/varnishd")
    if program is None or not shutil.which("gcc"):
        missing("Varnish with xkey, and gcc", "apt-get install varnish varnish-modules gcc libc6-dev")
    # As root it gives itself other users, who must reach its folder: pytest's own is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="ragline-varnish-"))
    folder.chmod(0o755)
    try:
        (folder / "ragline.vcl").write_text((VCL / "ragline.vcl").read_text())
        (folder / "site.vcl").write_text(site(origin_port, purgers))
        port = free_port()
        command: list[str | Path] = [
            program, "-F", "-n", folder / "work", "-f", folder / "ragline.vcl", "-p", f"vcl_path={folder}",
            "-a", f"127.0.0.1:{port}", "-T", "none", "-s", "malloc,32m", "-p", "thread_pool_min=10",
            "-p", "thread_pool_max=200",
        ]  # fmt: skip
        with running(command, name="varnish", folder=folder, ready=lambda: _answers(port)):
            yield Varnish(port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def site(origin_port: int, purgers: str) -> str:
    """site.vcl as it ships, with another origin and other purgers."""
    text = (VCL / "site.vcl").read_text()
    text, ports = re.subn(r'\.port = "\d+"', f'.port = "{origin_port}"', text)
    text, lists = re.subn(r"acl purgers \{[^}]*\}", f'acl purgers {{\n    "{purgers}";\n}}', text)
    assert (ports, lists) == (1, 1)
    return text


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as asking:
            asking.sendall(b"PURGE / HTTP/1.1\r\nHost: ready\r\nConnection: close\r\n\r\n")
            return asking.recv(9) == b"HTTP/1.1 "
    except OSError:
        return False
