"""One try, over real connections to real receivers on loopback, which an operator's setting allows here."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from ragline.clock import SystemClock
from ragline.settings import Settings, WebhooksSettings
from ragline.types import WebhookDelivery, delivery_host
from ragline.webhooks import sender as module
from ragline.webhooks.addresses import Address, Addresses, Resolve, Unresolved
from ragline.webhooks.sender import Sender
from ragline.webhooks.signing import Signing
from tests.engines.elasticsearch_door import certificate
from tests.receiving import HANGS, OTHER_SECRET, SECRET, Answer, receiving

BODY = json.dumps({"type": "job.done", "data": {"job_id": "1", "answer": "grün"}}, ensure_ascii=False).encode()
LOOPBACK: dict[str, Any] = {"allow_http": True, "allow_networks": ["127.0.0.0/8", "::1/128"], "secrets": [SECRET]}


def delivery(url: str, **given: Any) -> WebhookDelivery:
    values: dict[str, Any] = {
        "id": "msg_1", "job": "1", "principal": "ann", "url": url, "host": delivery_host(url), "body": BODY, "attempt": 1,
        "spent": 0, "state": "waiting", "created_at": 0.0, "due_at": 0.0,
    }  # fmt: skip
    return WebhookDelivery(**(values | given))


@asynccontextmanager
async def sending(
    resolve: Resolve | None = None, *, tls: ssl.SSLContext | None = None, **given: Any
) -> AsyncIterator[Sender]:
    settings = Settings(webhooks=WebhooksSettings.model_validate(LOOPBACK | {"timeout_s": 30.0} | given))
    addresses = Addresses(settings.webhooks, resolve)
    sender = Sender(
        addresses=addresses, signing=Signing(settings), clock=SystemClock(), settings=settings.webhooks, tls=tls
    )
    try:
        yield sender
    finally:
        await sender.aclose()
        await addresses.aclose()


def at(*turns: str) -> tuple[Resolve, list[str]]:
    """A name server that says something else each time, and which names it was asked for."""
    asked: list[str] = []

    async def resolve(host: str) -> list[Address]:
        asked.append(host)
        return [ipaddress.ip_address(turns[min(len(asked), len(turns)) - 1])]

    return resolve, asked


async def test_what_arrives_is_verified_by_the_library() -> None:
    async with receiving(Answer(200, body=b"thanks")) as receiver, sending() as sender:
        outcome = await sender.send(delivery(receiver.url("/hook?a=b%20c")))
    assert (outcome.status, outcome.error) == (200, "")
    (got,) = receiver.got
    assert got.verified() == json.loads(BODY)
    assert (got.id, got.body, got.path) == ("msg_1", BODY, "/hook?a=b%20c")
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        got.verified(OTHER_SECRET)


async def test_while_a_secret_is_changed_both_sign() -> None:
    async with receiving() as receiver, sending(secrets=[OTHER_SECRET, SECRET]) as sender:
        await sender.send(delivery(receiver.url()))
    assert receiver.got[0].verified(SECRET) == receiver.got[0].verified(OTHER_SECRET)
    assert [one.partition(",")[0] for one in receiver.got[0].headers["webhook-signature"].split(" ")] == ["v1", "v1"]


@pytest.mark.parametrize(
    ("answer", "error", "final"),
    [
        (Answer(500), "500", False), (Answer(404), "404", False), (Answer(401), "401", False), (Answer(410), "410", True),
        (Answer(101), "101|broke off", False), (Answer(204, then="break"), "broke off", False),
    ],
)  # fmt: skip
async def test_what_is_not_2xx_is_not_delivered(answer: Answer, error: str, final: bool) -> None:
    async with receiving(answer) as receiver, sending() as sender:
        outcome = await sender.send(delivery(receiver.url()))
    assert outcome.final is final
    assert any(one in outcome.error for one in error.split("|")), outcome.error


async def test_a_redirect_is_a_failure_that_says_so_and_nobody_goes_there() -> None:
    async with receiving() as there, sending() as sender:
        for status in (301, 302, 303, 307, 308):
            async with receiving(Answer(status, (f"Location: {there.url()}",))) as receiver:
                outcome = await sender.send(delivery(receiver.url()))
            assert (outcome.status, outcome.final) == (status, False)
            assert "redirects are not followed" in outcome.error
    assert there.got == []


async def test_retry_after_is_read_and_bounded() -> None:
    async with sending() as sender:
        for header, told in (("7", 7.0), ("999999999", 600.0), ("nan", 5.0), ("soon", 5.0)):
            async with receiving(Answer(503, (f"Retry-After: {header}",))) as receiver:
                outcome = await sender.send(delivery(receiver.url()))
            assert outcome.retry_after_s == told
        async with receiving(Answer(503)) as receiver:
            assert (await sender.send(delivery(receiver.url()))).retry_after_s is None


async def test_one_that_hangs_costs_a_try() -> None:
    async with receiving(HANGS) as receiver, sending(timeout_s=0.3) as sender:
        outcome = await sender.send(delivery(receiver.url()))
        assert len(receiver.got) == 1
    assert (outcome.status, outcome.final) == (None, False)
    assert "webhooks.timeout_s" in outcome.error


async def test_so_does_a_name_server_that_hangs() -> None:
    async def hangs(host: str) -> list[Address]:
        return await asyncio.Future()

    async with sending(hangs, timeout_s=0.05) as sender:
        assert "No answer within" in (await sender.send(delivery("http://receiver.example/"))).error


async def test_a_body_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 30.0)  # so that it is the bytes that end it
    async with receiving(Answer(200, body=b"x" * 4_096, then="endless")) as receiver, sending() as sender:
        outcome = await sender.send(delivery(receiver.url()))
    assert (outcome.status, outcome.error) == (200, "")
    assert receiver.sent_bytes < 64 << 20


async def test_a_body_that_never_comes_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_S", 0.01)
    async with (
        receiving(Answer(200, ("Content-Length: 9",), body=b"abc", then="hang")) as receiver,
        sending() as sender,
    ):
        assert (await sender.send(delivery(receiver.url()))).error == ""


async def test_nothing_of_an_answer_is_told() -> None:
    """Else whoever asks a question reads what only this process reaches."""
    async with receiving(Answer(500, ("X-Secret: hunter2",), body=b"hunter2")) as receiver, sending() as sender:
        assert "hunter2" not in repr(await sender.send(delivery(receiver.url())))


async def test_nobody_there() -> None:
    async with receiving() as receiver:
        url = receiver.url()
    async with sending() as sender:
        outcome = await sender.send(delivery(url))
    assert outcome.error == "It cannot be connected to."


async def test_an_address_that_is_not_public_is_looked_at_again_when_it_is_sent() -> None:
    """It was public when the question came."""
    resolve, _ = at("8.8.8.8", "127.0.0.1")
    async with receiving() as receiver, sending(resolve, allow_networks=[]) as sender:
        await sender._addresses.check(url := receiver.url(host="rebinding.example"))
        outcome = await sender.send(delivery(url))
        assert (await sender.send(delivery("http://169.254.169.254/latest/meta-data/"))).error.startswith("Not called")
        assert (await sender.send(delivery("http://[::ffff:127.0.0.1]/"))).error.startswith("Not called")
    assert outcome.error.startswith("Not called: rebinding.example has no public address")
    assert receiver.got == []


async def test_the_connection_goes_to_the_address_that_was_looked_at() -> None:
    """The name leads elsewhere a moment later, and the system does not know it: whoever resolved it once more would fail, or
    arrive there."""
    resolve, asked = at("127.0.0.1", "127.0.0.2")
    async with (
        receiving() as checked,
        receiving(at="127.0.0.2", port=checked.port) as elsewhere,
        sending(resolve, allow_networks=["127.0.0.1/32"]) as sender,
    ):
        outcome = await sender.send(delivery(url := checked.url(host="rebinding.invalid")))
        again = await sender.send(delivery(url))
    assert (outcome.status, outcome.error) == (204, "")
    assert asked == ["rebinding.invalid", "rebinding.invalid"], "once a try"
    assert checked.got[0].headers["host"] == f"rebinding.invalid:{checked.port}"
    assert again.error.startswith("Not called"), "each try looks anew"
    assert (len(checked.got), elsewhere.got) == (1, [])


async def test_an_address_that_does_not_answer_is_passed_over_for_the_next() -> None:
    async def resolve(host: str) -> list[Address]:
        return [ipaddress.ip_address(one) for one in ("::1", "127.0.0.9", "127.0.0.1")]

    async with receiving() as receiver, sending(resolve) as sender:
        assert (await sender.send(delivery(receiver.url(host="both.invalid")))).error == ""
    assert len(receiver.got) == 1


async def test_a_name_that_is_gone() -> None:
    async def gone(host: str) -> list[Address]:
        raise Unresolved(host, definite=True)

    async with sending(gone) as sender:
        assert (await sender.send(delivery("http://gone.example/"))).error == "Not called: gone.example has no address."


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tls(tmp_path: Path) -> Callable[..., tuple[ssl.SSLContext, ssl.SSLContext]]:
    """Of a server whose certificate is for these names, and of a client that trusts its authority."""

    def both(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        authority, pair = certificate(tmp_path, *names)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(pair)
        return server, ssl.create_default_context(cafile=str(authority))

    return both


async def test_the_certificate_must_be_for_the_name_not_for_the_address(
    tls: Callable[..., tuple[ssl.SSLContext, ssl.SSLContext]],
) -> None:
    server, client = tls("receiver.invalid")
    resolve, _ = at("127.0.0.1")
    async with receiving(Answer(then="keep"), tls=server) as receiver, sending(resolve, tls=client) as sender:
        good = await sender.send(delivery(receiver.url(host="receiver.invalid", scheme="https")))
        other = await sender.send(delivery(receiver.url(host="other.invalid", scheme="https")))
        bare = await sender.send(delivery(receiver.url(scheme="https")))
    assert (good.status, good.error) == (204, "")
    assert receiver.got[0].verified()
    assert receiver.got[0].headers["host"] == f"receiver.invalid:{receiver.port}"
    assert receiver.names[:2] == ["receiver.invalid", "other.invalid"]
    assert "certificate is not good for that name" in other.error
    assert "certificate is not good for that name" in bare.error
    assert len(receiver.got) == 1, "the other tries sent nothing, over no connection that was open"


async def test_a_certificate_for_an_address_and_one_of_nobody_we_know(
    tls: Callable[..., tuple[ssl.SSLContext, ssl.SSLContext]],
) -> None:
    server, client = tls()
    async with receiving(tls=server) as receiver:
        async with sending(tls=client) as sender:
            assert (await sender.send(delivery(receiver.url(scheme="https")))).error == ""
        async with sending() as sender:
            assert "certificate" in (await sender.send(delivery(receiver.url(scheme="https")))).error
    async with receiving() as plain, sending(tls=client) as sender:
        assert "TLS failed" in (await sender.send(delivery(plain.url(scheme="https")))).error


async def test_http_is_not_sent_to_once_it_is_not_allowed_any_more() -> None:
    async with receiving() as receiver, sending(allow_http=False) as sender:
        assert "http:// is not taken" in (await sender.send(delivery(receiver.url()))).error
    assert receiver.got == []


def test_a_proxy_of_the_environment_is_not_asked(tmp_path: Path) -> None:
    """It would resolve the name once more."""
    source = """
import asyncio
from tests.receiving import receiving
from tests.webhooks.test_sender import delivery, sending

async def main():
    async with receiving() as receiver, sending() as sender:
        print((await sender.send(delivery(receiver.url()))).status)

asyncio.run(main())
"""
    proxied = {
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=root, env=proxied, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout.strip() == "204", done.stderr
