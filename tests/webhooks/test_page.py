"""The receivers that docs/webhooks.md shows do what it says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ragline.cli.server import listen, serving
from ragline.cli.up import address
from ragline.settings import HttpSettings
from tests.receiving import OTHER_SECRET, SECRET, receiving
from tests.webhooks.test_sender import delivery, sending

PAGE = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"


def _shown() -> list[dict[str, Any]]:
    """What each block of Python defines."""
    found = []
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        names: dict[str, Any] = {"__name__": "shown"}
        exec(compile(code, str(PAGE), "exec"), names)
        found.append(names)
    return found


@pytest.fixture
async def shown(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The receiver, served, and what its block defines."""
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    names, _ = _shown()
    with listen("127.0.0.1", 0) as listener:
        async with serving(names["app"], listener, HttpSettings(), work=None):
            yield f"{address(listener)}/hook", names


async def test_the_receiver_takes_what_is_signed_once(
    shown: tuple[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, names = shown
    async with sending() as sender:
        for _ in range(2):
            assert (await sender.send(delivery(url))).status == 204
    assert capsys.readouterr().out == "job.done 1\n"
    assert names["seen"] == {"msg_1"}


async def test_the_receiver_refuses_what_is_not(shown: tuple[str, dict[str, Any]]) -> None:
    url, names = shown
    async with sending(secrets=[OTHER_SECRET]) as sender:
        assert (await sender.send(delivery(url))).status == 401
    async with httpx.AsyncClient(trust_env=False) as client:
        for signature in ("", "v1", "v1,x", "v2,AAAA", "v1,Zm9y"):
            headers = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": signature}
            assert (await client.post(url, content=b"\xff", headers=headers)).status_code == 401
    assert names["seen"] == set()


async def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    _, names = _shown()
    async with receiving() as receiver, sending(secrets=[OTHER_SECRET, SECRET]) as sender:
        await sender.send(delivery(receiver.url()))
    (got,) = receiver.got
    verified = names["verified"]
    assert verified(SECRET, got.headers, got.body)
    assert verified(OTHER_SECRET, got.headers, got.body)
    assert not verified("whsec_" + "A" * 32, got.headers, got.body)
    assert not verified(SECRET, got.headers, got.body + b" ")
    assert not verified(SECRET, got.headers | {"webhook-id": "msg_2"}, got.body)
    assert not verified(SECRET, got.headers | {"webhook-timestamp": "1"}, got.body)
