"""Google Cloud Tasks as the job queue: the adapter on an emulator, the route against every forged token."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from google.api_core import exceptions as api
from google.auth import exceptions as auth

from ragline.api import problems, wakes
from ragline.clock import SystemClock
from ragline.errors import ConfigurationError, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.protocols import JobQueue
from ragline.queues import cloudtasks as adapter
from ragline.queues.cloudtasks import CloudTasksJobQueue
from ragline.queues.cloudtasks_connection import failure, options_of
from ragline.testing.queues import ServedJobQueueContract, first
from tests.engines import cloudtasks as engine
from tests.engines import cloudtasks_door
from tests.engines.cloudtasks import ACCOUNT, PARENT, Emulator
from tests.engines.cloudtasks_door import Door, Issuer, post
from tests.engines.server import free_port
from tests.queues.test_memory import Watch

QUEUE = "/v1/internal/queues/retrieval/wakes"


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with cloudtasks_door.door() as door:
        yield door


def app_of(jobs: CloudTasksJobQueue) -> FastAPI:
    """The part of a worker's application that Google calls."""
    app = FastAPI()
    problems.install(app)
    app.state.pushed = jobs
    app.include_router(wakes.router)
    return app


def opened(door: Door, host: str, prefix: str, **words: object) -> CloudTasksJobQueue:
    """A worker process behind the door."""
    query = "".join(f"&{name}={value}" for name, value in ({"hold_s": 1, "dedupe_s": 0} | words).items())
    jobs = CloudTasksJobQueue(
        f"cloudtasks://tests/here/{prefix}?{door.words()}&endpoint={host}{query}", clock=SystemClock()
    )
    door.app = app_of(jobs)
    return jobs


class TestContract(ServedJobQueueContract):
    ASKS = False

    @pytest.fixture
    def connect(self, cloudtasks: Emulator, door: Door) -> Callable[[], JobQueue]:
        prefix = cloudtasks.queues()
        return lambda: opened(door, cloudtasks.host, prefix)

    @pytest.fixture
    def away(self) -> JobQueue:
        url = f"cloudtasks://tests/here/t?target=http://127.0.0.1:1&account={ACCOUNT}&endpoint=127.0.0.1:{free_port()}"
        return CloudTasksJobQueue(url + "&timeout_s=2", clock=SystemClock())

    @pytest.fixture
    def server(
        self, door: Door, tmp_path: Path
    ) -> Iterator[tuple[Callable[[], JobQueue], Callable[[], None], Callable[[], None]]]:
        with engine.server(tmp_path, f"{PARENT}/queues/t-retrieval", f"{PARENT}/queues/t-generation") as ours:
            yield lambda: opened(door, ours.host, "t"), ours.stop, ours.start


async def test_the_task_is_what_google_needs(cloudtasks: Emulator, door: Door) -> None:
    prefix = cloudtasks.queues()
    name = f"{PARENT}/queues/{prefix}-generation"
    jobs = opened(door, cloudtasks.host, prefix, dedupe_s=10, hold_s=30)
    with cloudtasks.client() as client:
        client.pause_queue(name=name)
        await jobs.notify("generation", "job-1")
        (task,) = client.list_tasks(parent=name)
    assert task.name.startswith(f"{name}/tasks/")
    assert "-job-1-" in task.name
    assert (task.http_request.url, task.http_request.body) == (
        f"{door.url}/v1/internal/queues/generation/wakes", b"job-1"
    )  # fmt: skip
    token = task.http_request.oidc_token
    assert (token.service_account_email, token.audience) == (ACCOUNT, door.url)
    assert task.dispatch_deadline.seconds == 40
    await jobs.aclose()


async def test_a_job_that_is_told_again_at_once_has_the_name_that_google_knows() -> None:
    watch = Watch()
    url = f"cloudtasks://tests/here/t?target=https://workers&account={ACCOUNT}&dedupe_s=10"
    jobs = CloudTasksJobQueue(url, clock=watch)
    names = [jobs._name("retrieval", "job-1"), jobs._name("retrieval", "job-2")]
    watch.at += 9.0
    assert jobs._name("retrieval", "job-1") == names[0]
    watch.at += 1.0
    names += [jobs._name("retrieval", "job-1"), jobs._name("generation", "job-1")]
    assert len(set(names)) == 4
    assert len({name.rpartition("/")[2][:8] for name in names[:2]}) == 2, "names do not begin alike"
    await jobs.aclose()


async def test_a_name_that_google_knows_is_no_error(
    cloudtasks: Emulator, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = opened(door, cloudtasks.host, cloudtasks.queues())
    client = await jobs._connected()

    async def known(**_: object) -> None:
        raise api.AlreadyExists("the emulator takes a second one; Google does not")  # type: ignore[no-untyped-call]

    monkeypatch.setattr(client, "create_task", known)
    await jobs.notify("retrieval", "job-1")
    await jobs.aclose()


async def test_a_queue_that_is_not_there_is_named_with_the_command_that_makes_it(
    cloudtasks: Emulator, door: Door
) -> None:
    jobs = opened(door, cloudtasks.host, "nosuch")
    with pytest.raises(EngineRejected, match="no such queue") as refused:
        await jobs.notify("retrieval", "job-1")
    assert "gcloud tasks queues create nosuch-retrieval --location=here --project=tests" in refused.value.next_step
    await jobs.aclose()


# ── the route ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def jobs(door: Door) -> AsyncIterator[CloudTasksJobQueue]:
    """A worker process; no emulator, so that the test itself is who calls."""
    jobs = opened(door, "127.0.0.1:1", "t", hold_s=0.2)
    yield jobs
    await jobs.aclose()


async def test_a_call_is_answered_once_its_wake_is_settled(jobs: CloudTasksJobQueue, door: Door) -> None:
    assert door.app
    calling = asyncio.create_task(post(door.app, QUEUE, b"job-1", door.issuer.token(door.url)))
    wake = await first(jobs)
    assert not calling.done()
    await jobs.settle("retrieval", [wake])
    assert (await calling).status_code == 204
    await jobs.settle("retrieval", [wake])


async def test_nobody_waits_or_settles_it_so_google_calls_again(jobs: CloudTasksJobQueue, door: Door) -> None:
    assert door.app
    answer = await post(door.app, QUEUE, b"job-1", door.issuer.token(door.url))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert await jobs.wait("retrieval", most=1, within_s=0.0) == [], "what was answered is not handed out"
    calling = asyncio.create_task(post(door.app, QUEUE, b"job-1", door.issuer.token(door.url)))
    wake = await first(jobs)
    assert (await calling).status_code == 503
    await jobs.settle("retrieval", [wake])  # too late, and harmless


async def test_more_calls_than_it_holds_are_sent_away(
    jobs: CloudTasksJobQueue, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "MOST_HELD", 2)
    app, token = app_of(jobs), door.issuer.token(door.url)
    calls = [asyncio.create_task(post(app, QUEUE, f"job-{n}".encode(), token)) for n in range(5)]
    wakes_: list[str] = []
    async with asyncio.timeout(30):
        while not all(call.done() for call in calls):
            some = await jobs.wait("retrieval", most=9, within_s=0.05)
            wakes_ += [wake.job for wake in some]
    assert len(wakes_) <= 2
    assert {call.result().status_code for call in calls} == {503}
    assert not jobs._held["retrieval"]


async def test_what_is_no_job_is_forgotten(jobs: CloudTasksJobQueue, door: Door) -> None:
    assert door.app
    for body in (b"", b"\xff\xfe", b'{"no": "job"}', b"x" * 1_000):
        assert (await post(door.app, QUEUE, body, door.issuer.token(door.url))).status_code == 204
    assert await jobs.wait("retrieval", most=1, within_s=0.0) == []


async def test_an_unknown_queue(jobs: CloudTasksJobQueue, door: Door) -> None:
    assert door.app
    path = "/v1/internal/queues/other/wakes"
    assert (await post(door.app, path, b"job-1", door.issuer.token(door.url))).status_code == 422


def _unsigned(issuer: Issuer, audience: str) -> str:
    _, body, _ = issuer.token(audience).split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": next(iter(issuer.keys))}).encode())
    return f"{head.decode().rstrip('=')}.{body}."


def _signed_with_the_public_key(issuer: Issuer, audience: str) -> str:
    """HMAC by the text of the public key: good where the algorithm of the token is believed."""
    import hashlib
    import hmac

    (kid, pem), *_ = issuer.keys.items()
    _, body, _ = issuer.token(audience).split(".")
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": kid}).encode()).decode().rstrip("=")
    mark = hmac.new(pem.encode(), f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(mark).decode().rstrip('=')}"


def _changed(issuer: Issuer, audience: str) -> str:
    head, body, mark = issuer.token(audience, email="other@x").split(".")
    said = json.loads(base64.urlsafe_b64decode(body + "=="))
    body = base64.urlsafe_b64encode(json.dumps(said | {"email": ACCOUNT}).encode()).decode().rstrip("=")
    return f"{head}.{body}.{mark}"


def _of_another_issuer(issuer: Issuer, audience: str) -> str:
    """With the id of the right key."""
    other = Issuer()
    other.url = issuer.url
    return other.token(audience, kid=next(iter(issuer.keys)))


FORGED: dict[str, tuple[Callable[[Issuer, str], str | None], int]] = {
    "none": (lambda issuer, audience: None, 401),
    "empty": (lambda issuer, audience: "", 401),
    "no token": (lambda issuer, audience: "a.b.c", 401),
    "huge": (lambda issuer, audience: "x" * 100_000, 401),
    "our own API key": (lambda issuer, audience: "rgl_0123456789", 401),
    "unsigned": (_unsigned, 401),
    "signed with the public key": (_signed_with_the_public_key, 401),
    "changed": (_changed, 401),
    "of another issuer's key": (_of_another_issuer, 401),
    "unknown key": (lambda issuer, audience: issuer.token(audience, kid="other"), 401),
    "no key": (lambda issuer, audience: issuer.token(audience, kid=None), 401),
    "expired": (lambda issuer, audience: issuer.token(audience, iat=1, exp=3_600), 401),
    "from the future": (lambda issuer, audience: issuer.token(audience, iat=9_999_999_999, exp=9_999_999_999), 401),
    "without an end": (lambda issuer, audience: issuer.token(audience, exp=None), 401),
    "an end that is no number": (lambda issuer, audience: issuer.token(audience, exp="soon"), 401),
    "another issuer": (lambda issuer, audience: issuer.token(audience, iss="https://other"), 401),
    "another audience": (lambda issuer, audience: issuer.token(f"{audience}/other"), 401),
    "no audience": (lambda issuer, audience: issuer.token(audience, aud=None), 401),
    "another account": (lambda issuer, audience: issuer.token(audience, email="other@tests"), 403),
    "an e-mail that is not verified": (lambda issuer, audience: issuer.token(audience, email_verified=False), 403),
    "no e-mail": (lambda issuer, audience: issuer.token(audience, email=None), 403),
}


@pytest.mark.parametrize("kind", FORGED)
async def test_a_forged_call_wakes_nobody(jobs: CloudTasksJobQueue, door: Door, kind: str) -> None:
    forge, status = FORGED[kind]
    assert door.app
    answer = await post(door.app, QUEUE, b"job-1", forge(door.issuer, door.url))
    assert answer.status_code == status
    assert await jobs.wait("retrieval", most=1, within_s=0.0) == []
    calling = asyncio.create_task(post(door.app, QUEUE, b"job-2", door.issuer.token(door.url)))
    wake = await first(jobs)
    await jobs.settle("retrieval", [wake])
    assert (await calling).status_code == 204, "a right one is let in all the same"


async def test_keys_are_kept_and_a_rotation_is_noticed(door: Door) -> None:
    watch = Watch()
    url = f"cloudtasks://tests/here/t?{door.words()}&endpoint=127.0.0.1:1&hold_s=0.1"
    jobs = CloudTasksJobQueue(url, clock=watch)
    app = app_of(jobs)

    async def status() -> int:
        return (await post(app, QUEUE, b"", door.issuer.token(door.url))).status_code

    assert [await status() for _ in range(3)] == [204] * 3
    assert door.issuer.asked == 1
    door.issuer.rotate()
    assert await status() == 401, "it was asked a moment ago"
    watch.at += 61.0
    assert await status() == 204
    assert door.issuer.asked == 2
    door.issuer.answers = False
    watch.at += 3_700.0
    assert await status() == 204, "the issuer is away: the keys that are known hold"
    await jobs.aclose()


async def test_without_the_keys_nobody_can_tell_and_google_calls_again(door: Door) -> None:
    door.issuer.answers = False
    watch = Watch()
    jobs = CloudTasksJobQueue(f"cloudtasks://tests/here/t?{door.words()}&endpoint=127.0.0.1:1", clock=watch)
    for _ in range(3):
        assert (await post(app_of(jobs), QUEUE, b"", door.issuer.token(door.url))).status_code == 503
    assert door.issuer.asked == 1
    door.issuer.answers = True
    watch.at += 61.0
    assert (await post(app_of(jobs), QUEUE, b"", door.issuer.token(door.url))).status_code == 204
    await jobs.aclose()


async def test_closed_while_google_waits(door: Door) -> None:
    jobs = opened(door, "127.0.0.1:1", "t", hold_s=600)
    assert door.app
    calling = asyncio.create_task(post(door.app, QUEUE, b"job-1", door.issuer.token(door.url)))
    await first(jobs)
    await jobs.aclose()
    assert (await calling).status_code == 503
    assert (await post(door.app, QUEUE, b"job-1", door.issuer.token(door.url))).status_code == 503


# ── the URL and the errors ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_url_says() -> None:
    options = options_of(
        "cloudtasks://my-project/europe-west1/house?target=https://all.example/&generation_target=https://slow.example/x"
        "&account=a@b.iam.gserviceaccount.com&hold_s=60&dedupe_s=0&generation=answers"
    )
    assert options.names["retrieval"] == "projects/my-project/locations/europe-west1/queues/house-retrieval"
    assert options.names["generation"].endswith("/queues/answers")
    assert options.url_of("retrieval") == "https://all.example/v1/internal/queues/retrieval/wakes"
    assert options.url_of("generation") == "https://slow.example/x/v1/internal/queues/generation/wakes"
    assert options.audience_of("generation") == "https://slow.example/x"
    assert (options.hold_s, options.dedupe_s, options.issuer) == (60.0, 0.0, "https://accounts.google.com")


RIGHT = "target=https://workers&account=a@b"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("cloudtasks://", "project or location"),
        ("cloudtasks://p", "project or location"),
        (f"cloudtasks://p/l?{RIGHT}", "no name of a queue"),
        (f"cloudtasks://p/l/a_b?{RIGHT}", "no name of a queue"),
        ("cloudtasks://p/l/a?account=a@b", "target"),
        ("cloudtasks://p/l/a?account=a@b&target=http://workers", "target"),
        ("cloudtasks://p/l/a?account=a@b&target=https://u:p@workers", "target"),
        ("cloudtasks://p/l/a?target=https://workers", "account"),
        (f"cloudtasks://p/l/a?{RIGHT}&retrieval=x&generation=x", "both queues are one"),
        (f"cloudtasks://p/l/a?{RIGHT}&hold=1", "no option 'hold'"),
        (f"cloudtasks://p/l/a?{RIGHT}&hold_s=0", "range"),
        (f"cloudtasks://p/l/a?{RIGHT}&hold_s=1&hold_s=2", "twice"),
        (f"cloudtasks://u:hidden@p/l/a?{RIGHT}", "project or location"),
    ],
)
def test_a_wrong_url_names_what_is_wrong(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CloudTasksJobQueue(url, clock=SystemClock())
    assert words in refused.value.message
    assert "hidden" not in str(refused.value)


NAME = "projects/p/locations/l/queues/q"


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        (api.NotFound, EngineRejected),
        (api.FailedPrecondition, EngineRejected),
        (api.Unauthenticated, EngineRejected),
        (api.PermissionDenied, EngineRejected),
        (api.InvalidArgument, EngineRejected),
        (api.ResourceExhausted, EngineUnavailable),
        (api.ServiceUnavailable, EngineUnavailable),
        (api.Unknown, EngineUnavailable),
        (api.DeadlineExceeded, EngineTimeout),
        (auth.DefaultCredentialsError, EngineRejected),
        (auth.RefreshError, EngineRejected),
        (auth.TransportError, EngineUnavailable),
        (TimeoutError, EngineTimeout),
        (ConnectionResetError, EngineUnavailable),
    ],
)
def test_the_table(kind: type[Exception], ours: type[EngineError]) -> None:
    raised = failure(kind("secret words"), "sending", NAME)
    assert type(raised) is ours
    assert "secret words" not in str(raised)
    assert "{" not in raised.next_step


def _below(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(one for below in kind.__subclasses__() for one in _below(below))]


@pytest.mark.parametrize("kind", [*_below(api.GoogleAPIError), *_below(auth.GoogleAuthError)], ids=lambda k: k.__name__)
def test_every_error_of_googles_libraries_has_a_row(kind: type[Exception]) -> None:
    assert type(failure(kind.__new__(kind), "sending", NAME)) is not EngineError
