"""Sources by URL: a bucket of a local S3 server, pages of a local web server; what each of them may do wrong."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ragline.cli import remote

from .conftest import Shell

CEILING_S = 120.0


# ── S3 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Bucket:
    """`fs` is the owner's; what Ragline reads with comes from the environment."""

    endpoint: str
    fs: Any

    def post(self, path: str, body: bytes = b"") -> None:
        request = urllib.request.Request(self.endpoint + path, data=body, headers={"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=30).close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("moto_server", path=str(Path(sys.executable).parent))
    if not program:
        assert not os.environ.get("CI"), "moto's server is missing: `make setup` installs it"
        pytest.skip("moto's server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=out, stderr=out)
    endpoint, deadline = f"http://127.0.0.1:{port}", time.monotonic() + CEILING_S
    try:
        while True:
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/data.json", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield endpoint
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    names = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": server}
    for name, value in (names | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    fs = fsspec.filesystem("s3", skip_instance_cache=True, endpoint_url=server)
    fs.mkdir("library")
    fs.pipe({f"library/docs/{name}": text for name, text in DOCS.items()})
    yield Bucket(server, fs)
    fsspec.filesystem("s3").clear_instance_cache()
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", data=b""), timeout=30).close()


DOCS = {
    "a.md": b"# A\n\nThe ferry to the island leaves at nine.\n",
    "guides/b.txt": b"The lighthouse was built of red stone.",
    ".hidden/c.txt": b"Nobody reads this.",
    "empty/": b"",
}


def test_a_prefix_of_a_bucket_is_followed(shell: Shell, bucket: Bucket) -> None:
    arguments = ["ingest", "--sync", "s3://library/docs", "-n", "bucket", "--json"]
    first = shell(*arguments).json
    assert (first["indexed"], first["unchanged"], first["source"]) == (2, 0, "s3://library/docs")
    listed = shell("documents", "list", "-n", "bucket", "--json").json["documents"]
    assert sorted(one["uri"] for one in listed) == ["a.md", "guides/b.txt"]
    found = shell("search", "what was built of red stone", "-n", "bucket", "--json").json["passages"]
    assert found[0]["uri"] == "guides/b.txt"

    again = shell(*arguments).json
    assert (again["indexed"], again["unchanged"], again["deleted"]) == (0, 2, 0)

    bucket.fs.pipe_file("library/docs/a.md", b"# A\n\nThe ferry to the island leaves at noon.\n")
    bucket.fs.rm_file("library/docs/guides/b.txt")
    third = shell(*arguments, "--yes").json
    assert (third["indexed"], third["unchanged"], third["deleted"]) == (1, 0, 1)


def test_a_large_object_and_a_single_one(shell: Shell, bucket: Bucket) -> None:
    data = bytes(range(256)) * (9 << 12)  # nothing that a parser or the model would spend time on
    bucket.fs.pipe_file("library/docs/tides.bin", data)
    done = shell("ingest", "s3://library/docs/tides.bin", "-n", "tides", "--no-wait", "--json").json
    assert done["accepted"] == 1
    shown = shell("documents", "show", "tides.bin", "-n", "tides", "--json").json
    assert shown["size"] == len(data)
    shell("namespaces", "delete", "tides", "--yes")


@pytest.mark.parametrize("url", ["s3://library/nothing", "s3://no-such-bucket/x"])
def test_nothing_there(shell: Shell, bucket: Bucket, url: str) -> None:
    refused = shell("ingest", "--sync", url, "-n", "nothing", code=2)
    assert refused.err.splitlines()[-2:] == [
        f"error: There is nothing at {url}.", "next: Correct the URL, or the bucket and its prefix.",
    ]  # fmt: skip


def test_wrong_credentials(shell: Shell, bucket: Bucket) -> None:
    bucket.post("/moto-api/reset-auth", b"0")
    try:
        refused = shell("ingest", "--sync", "s3://library/docs", "-n", "denied", code=2)
    finally:
        bucket.post("/moto-api/reset-auth", b"1000000000")
    assert "s3://library/docs is not to be read with these credentials" in refused.err
    assert "AWS_ACCESS_KEY_ID" in refused.err
    assert "secret" not in refused.err


def test_no_server(shell: Shell, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    fsspec.filesystem("s3").clear_instance_cache()
    refused = shell("ingest", "--sync", "s3://library/docs", "-n", "away", code=3)
    assert "s3://library/docs cannot be reached" in refused.err


# ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Site:
    """`pages`: path → (etag, text). `asked`: the requests, as they came."""

    url: str
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    failing: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.command, self.path))
            path = self.path.partition("?")[0]
            if path in made.hanging:
                made.ended.wait(CEILING_S)
                return
            if path in made.moved:
                self._head(302, {"Location": made.moved[path], "Content-Length": "0"})
                return
            if path in made.failing or path not in made.pages:
                self._head(made.failing.get(path, 404), {"Content-Length": "0"})
                return
            etag, text = made.pages[path]
            self._head(200, {"Content-Length": str(len(text))} | ({"ETag": f'"{etag}"'} if etag else {}))
            if self.command == "GET":
                self.wfile.write(text)

        do_HEAD = do_GET

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Site(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield made
        made.ended.set()
        server.shutdown()
        thread.join()
    fsspec.filesystem("http").clear_instance_cache()


def test_a_page_is_followed_by_its_etag(shell: Shell, site: Site) -> None:
    site.pages["/handbook/leave.txt"] = ("one", b"Everybody has thirty days of leave.")
    arguments = ["ingest", "--sync", f"{site.url}/handbook/leave.txt", "-n", "page", "--json"]
    assert shell(*arguments).json["indexed"] == 1
    site.asked.clear()
    again = shell(*arguments).json
    assert (again["indexed"], again["unchanged"]) == (0, 1)
    assert {method for method, _ in site.asked} == {"HEAD"}, "unchanged: nothing is fetched"
    site.pages["/handbook/leave.txt"] = ("two", b"Everybody has thirty-one days of leave.")
    assert shell(*arguments).json["indexed"] == 1
    shown = shell("search", "days of leave", "-n", "page", "--json").json["passages"]
    assert [(one["uri"], "thirty-one" in one["text"]) for one in shown] == [("leave.txt", True)]


def test_a_page_that_tells_no_version_is_read_every_time(shell: Shell, site: Site) -> None:
    site.pages["/a.txt"] = ("", b"The gate closes at ten.")
    for known in (0, 1):
        done = shell("ingest", "--sync", f"{site.url}/a.txt", "-n", "plain-page", "--json").json
        assert (done["indexed"], done["unchanged"]) == (1, known)


def test_a_missing_page(shell: Shell, site: Site) -> None:
    refused = shell("ingest", f"{site.url}/nothing.txt", code=2)
    assert f"There is nothing at {site.url}/nothing.txt" in refused.err


def test_a_page_on_another_host(shell: Shell, site: Site) -> None:
    port = site.url.rpartition(":")[2]
    site.pages["/there.txt"] = ("x", b"Moved.")
    site.moved = {"/a.txt": f"http://localhost:{port}/there.txt", "/b.txt": "/there.txt"}
    refused = shell("ingest", f"{site.url}/a.txt", code=2)
    assert f"points to another host, http://localhost:{port}/there.txt" in refused.err
    assert "give that URL itself" in refused.err
    assert shell("ingest", f"{site.url}/b.txt", "-n", "moved", "--json").json["indexed"] == 1


@pytest.mark.parametrize(("status", "code", "told"), [(401, 2, "credentials"), (503, 3, "answered 503")])
def test_a_page_that_is_refused(shell: Shell, site: Site, status: int, code: int, told: str) -> None:
    site.failing["/a.txt"] = status
    url = site.url.replace("//", "//user:hush@") + "/a.txt?token=hush"
    refused = shell("ingest", url, code=code)
    assert told in refused.err
    assert "hush" not in refused.err, "what stands in a URL may be a secret"


def test_a_server_that_hangs(shell: Shell, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "READ_S", 0.3)
    fsspec.filesystem("http").clear_instance_cache()
    site.hanging.add("/a.txt")
    refused = shell("ingest", f"{site.url}/a.txt", code=3)
    assert "did not answer in time" in refused.err


def test_a_server_that_nobody_runs(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    refused = shell("ingest", f"http://127.0.0.1:{port}/a.txt", code=3)
    assert "cannot be reached" in refused.err


# ── other file systems ───────────────────────────────────────────────────────────────────────────────────────────────


def test_any_file_system_of_fsspec(shell: Shell) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/shelf/a.md": b"The atlas has forty maps.", "/shelf/sub/b.md": b"The globe is blue."})
    assert shell("ingest", "memory://shelf", "-n", "memory", "--json").json["indexed"] == 2
    listed = shell("documents", "list", "-n", "memory", "--json").json["documents"]
    assert sorted(one["uri"] for one in listed) == ["a.md", "sub/b.md"]
    memory.rm("/shelf", recursive=True)


def test_a_scheme_that_nobody_knows(shell: Shell) -> None:
    assert "nonsense://x" in shell("ingest", "nonsense://x", code=2).err


def test_a_package_that_is_missing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    refused = shell("ingest", "https://127.0.0.1/a.pdf", code=2)
    assert "pip install 'ragline[http]'" in refused.err
