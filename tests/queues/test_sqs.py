"""Amazon SQS as the job queue, on a real server that speaks it (ElasticMQ)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore.exceptions
import pytest
import structlog
from botocore.exceptions import ClientError

from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.protocols import JobQueue
from ragline.queues.sqs import SqsJobQueue
from ragline.queues.sqs_connection import TABLE, failure, options_of
from ragline.testing.queues import ServedJobQueueContract, first, take
from tests.engines import elasticmq as engine
from tests.engines.elasticmq import REGION, ElasticMQ
from tests.engines.server import free_port

SECRET = "c2VjcmV0-of-the-tests"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def url(elasticmq: ElasticMQ) -> str:
    return elasticmq.url()


class TestContract(ServedJobQueueContract):
    @pytest.fixture
    def connect(self, url: str) -> Callable[[], JobQueue]:
        return lambda: SqsJobQueue(url)

    @pytest.fixture
    def away(self) -> JobQueue:
        return SqsJobQueue(f"sqs://{REGION}/t?endpoint=http://127.0.0.1:{free_port()}&timeout_s=1")

    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[tuple[Callable[[], JobQueue], Callable[[], None], Callable[[], None]]]:
        with engine.server(tmp_path) as ours:
            url = ours.url()
            yield lambda: SqsJobQueue(url), ours.stop, ours.start


async def test_a_queue_that_is_not_there_is_named_with_the_command_that_makes_it(elasticmq: ElasticMQ) -> None:
    jobs = SqsJobQueue(elasticmq.url("nosuch"))
    for call in (
        jobs.check,
        lambda: jobs.notify("generation", "a"),
        lambda: jobs.wait("retrieval", most=1, within_s=0),
    ):
        with pytest.raises(EngineRejected, match="There is no such queue in eu-central-1") as refused:
            await call()
        assert "aws sqs create-queue --region eu-central-1 --queue-name nosuch-" in refused.value.next_step
    await jobs.aclose()


async def test_queues_by_their_urls(elasticmq: ElasticMQ) -> None:
    prefix = elasticmq.queues()
    named = {
        name: elasticmq.client().get_queue_url(QueueName=f"{prefix}-{name}")["QueueUrl"]
        for name in ("retrieval", "generation")
    }
    words = "&".join(f"{name}={url}" for name, url in named.items())
    jobs = SqsJobQueue(f"sqs://{REGION}?endpoint={elasticmq.endpoint}&{words}")
    await jobs.notify("generation", "job-1")
    assert (await first(jobs, "generation")).job == "job-1"
    await jobs.aclose()
    gone = SqsJobQueue(f"sqs://{REGION}?endpoint={elasticmq.endpoint}&{words.replace(prefix, 'nosuch')}")
    with pytest.raises(EngineRejected, match="There is no such queue"):
        await gone.check()
    await gone.aclose()


async def test_what_is_never_settled_ends_in_the_dead_letter_queue(elasticmq: ElasticMQ) -> None:
    prefix, client = elasticmq.queues(dead_after=2), elasticmq.client()
    jobs = SqsJobQueue(elasticmq.url(prefix))
    await jobs.notify("retrieval", "job-1")
    assert [(await first(jobs)).job for _ in range(2)] == ["job-1", "job-1"]
    assert await jobs.wait("retrieval", most=1, within_s=2.0) == []
    dead = client.get_queue_url(QueueName=f"{prefix}-dead")["QueueUrl"]
    (letter,) = client.receive_message(QueueUrl=dead, WaitTimeSeconds=5)["Messages"]
    assert letter["Body"] == "job-1"
    await jobs.aclose()


async def test_a_queue_without_dead_letters_is_logged(elasticmq: ElasticMQ) -> None:
    for dead_after, lines in ((0, 2), (3, 0)):
        jobs = SqsJobQueue(elasticmq.url(elasticmq.queues(dead_after=dead_after)))
        with structlog.testing.capture_logs() as logged:
            await jobs.check()
        assert len(logged) == lines
        await jobs.aclose()


async def test_what_a_stranger_wrote_wakes_nobody_and_is_left_to_the_dead_letters(elasticmq: ElasticMQ) -> None:
    prefix, client = elasticmq.queues(dead_after=1), elasticmq.client()
    queue = client.get_queue_url(QueueName=f"{prefix}-retrieval")["QueueUrl"]
    client.send_message(QueueUrl=queue, MessageBody='{"no": "job"}')
    jobs = SqsJobQueue(elasticmq.url(prefix))
    with structlog.testing.capture_logs() as logged:
        assert await jobs.wait("retrieval", most=1, within_s=1.0) == []
    assert [line["event"] for line in logged] == ["a message of the queue is no job"]
    await jobs.notify("retrieval", "job-1")
    assert {wake.job for wake in await take(jobs, ["job-1"])} == {"job-1"}
    await jobs.aclose()


async def test_settling_a_wake_that_was_never_there(elasticmq: ElasticMQ) -> None:
    from ragline.types import Wake

    jobs = SqsJobQueue(elasticmq.url())
    await jobs.settle("retrieval", [Wake("a", "no handle"), Wake("b", "none either")])
    await jobs.aclose()


# ── the URL ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_url_says() -> None:
    options = options_of("sqs://eu-west-1/house?visibility_s=30&timeout_s=2.5&endpoint=http://127.0.0.1:9324")
    assert options.names == {"retrieval": "house-retrieval", "generation": "house-generation"}
    assert (options.region, options.visibility_s, options.timeout_s) == ("eu-west-1", 30, 2.5)
    assert options.endpoint == "http://127.0.0.1:9324"
    mixed = options_of("sqs://eu-west-1/house?generation=https://sqs.eu-west-1.amazonaws.com/123456789012/slow")
    assert mixed.names["retrieval"] == "house-retrieval"
    assert mixed.names["generation"].endswith("/slow")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqs://", "region"),
        ("sqs://eu-west-1", "no queue for retrieval"),
        ("sqs://eu-west-1?retrieval=a", "no queue for generation"),
        ("sqs://eu-west-1/a?generation=b.fifo", "FIFO"),
        ("sqs://eu-west-1/a b", "neither the name nor the URL"),
        ("sqs://eu-west-1?retrieval=a&generation=a", "both queues are one"),
        ("sqs://eu-west-1/a?visibility=3", "no option 'visibility'"),
        ("sqs://eu-west-1/a?visibility_s=0", "range"),
        ("sqs://eu-west-1/a?visibility_s=x", "range"),
        ("sqs://eu-west-1/a?visibility_s=1&visibility_s=2", "twice"),
        ("sqs://eu-west-1/a?endpoint=ftp://x", "endpoint"),
        ("sqs://AKIA:hidden@eu-west-1/a", "credentials"),
        ("sqs://eu-west-1/a?endpoint=http://AKIA:hidden@x", "endpoint"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        SqsJobQueue(url)
    assert words in refused.value.message
    assert "hidden" not in str(refused.value)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _answer(code: str, status: int) -> ClientError:
    told = {"Error": {"Code": code, "Message": f"key {SECRET}"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "SendMessage")


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (_answer("QueueDoesNotExist", 400), EngineRejected),
        (_answer("AWS.SimpleQueueService.NonExistentQueue", 400), EngineRejected),
        (_answer("AccessDeniedException", 400), EngineRejected),
        (_answer("com.amazonaws.sqs#RequestThrottled", 400), EngineUnavailable),
        (_answer("SomethingNew", 403), EngineRejected),
        (_answer("SomethingNew", 503), EngineUnavailable),
        (_answer("SomethingNew", 400), EngineError),
        (botocore.exceptions.NoCredentialsError(), EngineRejected),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"), EngineUnavailable),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"), EngineTimeout),
        (botocore.exceptions.SSLError(endpoint_url="http://x", error="e"), EngineUnavailable),
        (botocore.exceptions.ParamValidationError(report="r"), EngineRejected),
        (TimeoutError(), EngineTimeout),
        (ConnectionResetError(), EngineUnavailable),
    ],
    ids=str,
)
def test_the_table(error: Exception, ours: type[EngineError]) -> None:
    raised = failure(error, "sending", "house-retrieval", "eu-west-1")
    assert type(raised) is ours
    assert raised.next_step
    assert SECRET not in str(raised), "what AWS says may hold a key"


_KINDS = [
    kind
    for kind in vars(botocore.exceptions).values()
    if inspect.isclass(kind) and issubclass(kind, botocore.exceptions.BotoCoreError)
]


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_botocore_has_a_row(kind: type[Exception]) -> None:
    names = {one.__name__ for one in kind.__mro__}
    assert any(known & names for known, *_ in TABLE)
    assert type(failure(kind.__new__(kind), "sending", "q", "r")) is not EngineError


async def test_without_credentials_it_says_where_they_go(
    monkeypatch: pytest.MonkeyPatch, elasticmq: ElasticMQ, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    jobs = SqsJobQueue(elasticmq.url("nosuch"))
    with pytest.raises(EngineRejected, match="credentials") as refused:
        await jobs.notify("retrieval", "a")
    assert "AWS_SECRET_ACCESS_KEY" in refused.value.next_step
    await jobs.aclose()
