"""A real server that speaks SQS: ElasticMQ from its published jars, which Maven brings once into the user's cache.

One server a session; each test has queues of its own. ``RAGLINE_TEST_SQS=http://host:9324`` is used instead when it is set (an
ElasticMQ; at Amazon's own, the queues would be made there); tests that stop the server start one of their own.
"""

from __future__ import annotations

import secrets
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.engines import maven
from tests.engines.server import free_port, given, running

VERSION = "1.7.1"
LOGBACK = "1.5.16"
OLDEST_JAVA = 17
REGION = "eu-central-1"

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>elasticmq</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.elasticmq</groupId><artifactId>elasticmq-server_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency><groupId>ch.qos.logback</groupId><artifactId>logback-classic</artifactId><version>{LOGBACK}</version></dependency>
  </dependencies>
</project>
"""

_SETTINGS = """\
include classpath("application.conf")
node-address {{ protocol = http, host = "127.0.0.1", port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict }}
rest-stats {{ enabled = false }}
queues-storage {{ enabled = true, path = "{folder}/queues.conf" }}
"""

_JVM = ("-Xms32m", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

QUEUES = ("retrieval", "generation")


class ElasticMQ:
    """`endpoint`: as AWS_ENDPOINT_URL."""

    def __init__(self, endpoint: str, command: list[str] | None = None, folder: Path | None = None) -> None:
        self.endpoint = endpoint
        self._command, self._folder = command, folder
        self._running = ExitStack()

    def client(self) -> Any:
        """Past everything that is tested: botocore's own."""
        import botocore.session

        return botocore.session.Session().create_client(
            "sqs", region_name=REGION, endpoint_url=self.endpoint, aws_access_key_id="key",
            aws_secret_access_key="secret",
        )  # fmt: skip

    def queues(self, *, dead_after: int = 0) -> str:
        """Makes both, and says the prefix of their names. `dead_after`: deliveries, then it goes to PREFIX-dead."""
        prefix, client = f"t{secrets.token_hex(6)}", self.client()
        words: dict[str, str] = {}
        if dead_after:
            dead = client.create_queue(QueueName=f"{prefix}-dead")["QueueUrl"]
            arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            words["RedrivePolicy"] = f'{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"{dead_after}"}}'
        for name in QUEUES:
            client.create_queue(QueueName=f"{prefix}-{name}", Attributes=words)
        return prefix

    def url(self, prefix: str = "", **words: object) -> str:
        """As `jobs.queue`, of queues that nobody else uses; what is not settled comes again after a second."""
        query = "&".join(f"{name}={value}" for name, value in ({"visibility_s": 1} | words).items())
        return f"sqs://{REGION}/{prefix or self.queues()}?endpoint={self.endpoint}&{query}"

    def start(self) -> None:
        assert self._command
        assert self._folder
        self._running.enter_context(running(self._command, name="elasticmq", folder=self._folder, ready=self._answers))

    def stop(self) -> None:
        self._running.close()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint}/?Action=ListQueues", timeout=5).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="session")
def elasticmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticMQ]:
    if url := given("RAGLINE_TEST_SQS"):
        yield ElasticMQ(url.rstrip("/"))
        return
    with server(tmp_path_factory.mktemp("elasticmq")) as ours:
        yield ours


@contextmanager
def server(folder: Path) -> Iterator[ElasticMQ]:
    """One of its own: its queues lie in `folder`, its messages in memory."""
    jars = maven.jars("ElasticMQ", VERSION, _POM, oldest_java=OLDEST_JAVA)
    port = free_port()
    settings = folder / "elasticmq.conf"
    settings.write_text(_SETTINGS.format(port=port, folder=folder))
    command = ["java", *_JVM, f"-Dconfig.file={settings}", "-cp", f"{jars}/*", "org.elasticmq.server.Main"]
    ours = ElasticMQ(f"http://127.0.0.1:{port}", command, folder)
    ours.start()
    try:
        yield ours
    finally:
        ours.stop()
