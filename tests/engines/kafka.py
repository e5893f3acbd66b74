"""A real Kafka broker (KRaft, one node) from its published jars, which Maven brings once into the user's cache.

One broker a session; each test has topics of its own by a prefix. ``RAGLINE_TEST_KAFKA=kafka://host:9092`` is used
instead when it is set; tests that kill the broker are skipped then, because it is the user's.
"""

from __future__ import annotations

import secrets
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.engines import maven
from tests.engines.server import free_port, given, running

VERSION = "4.1.0"
OLDEST_JAVA = 17

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
  </dependencies>
</project>
"""

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/log
offsets.topic.replication.factor=1
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
"""

_JVM = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Kafka:
    """`hosts`: ``host:port``, as clients are given it."""

    def __init__(self, hosts: str, command: list[str] | None = None, folder: Path | None = None) -> None:
        self.hosts = hosts
        self._command = command
        self._folder = folder
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, **words: object) -> str:
        """Of topics that nobody else uses; three partitions of one replica, unless `words` say otherwise."""
        query = "&".join(f"{name}={value}" for name, value in ({"partitions": 3, "replication": 1} | words).items())
        return f"kafka://{self.hosts}/t{secrets.token_hex(6)}?{query}"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def start(self) -> None:
        assert self._command
        assert self._folder
        host, _, port = self.hosts.rpartition(":")
        server = running(self._command, name="kafka", folder=self._folder, ready=lambda: answers(host, int(port)))
        self._process = self._running.enter_context(server)

    def kill(self) -> None:
        """As a power failure: nothing is flushed, nobody is told. A user's own broker is left alone."""
        if self._process is None:
            pytest.skip("the broker is the user's: it is not killed")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._running.close()

    def stop(self) -> None:
        self._running.close()


def answers(host: str, port: int) -> bool:
    """Whether a broker answers which requests it knows (ApiVersions, version 0)."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection((host, port), timeout=2.0) as asking:
            asking.sendall(struct.pack(">i", len(request)) + request)
            answer = asking.recv(10)
    except OSError:
        return False
    return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (1, 0)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    if url := given("RAGLINE_TEST_KAFKA"):
        yield Kafka(urlsplit(url).netloc)
        return
    with broker(tmp_path_factory.mktemp("kafka")) as ours:
        yield ours


@contextmanager
def broker(folder: Path, *, advertised: int = 0) -> Iterator[Kafka]:
    """One of its own, with its data in `folder`. `advertised`: the port that it tells its clients, of a proxy before it."""
    jars = maven.jars("Kafka", VERSION, _POM, oldest_java=OLDEST_JAVA)
    port, controller = free_port(), free_port()
    properties = folder / "server.properties"
    properties.write_text(
        _PROPERTIES.format(port=port, advertised=advertised or port, controller=controller, folder=folder)
    )
    java = ["java", *_JVM, "-cp", f"{jars}/*"]
    done = subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", str(properties)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        pytest.fail(f"The broker's folder was not made: {done.stderr[-2000:]}", pytrace=False)
    server = Kafka(f"127.0.0.1:{port}", [*java, "kafka.Kafka", str(properties)], folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
