"""Answers that are not what a Ragline server says, and streams that break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ragline.cli.connection import Connection, Where, connect
from ragline.cli.failures import NotReachable, Refused, WrongUsage, exit_code, report
from ragline.errors import ConfigurationError, EngineUnavailable, NotFound


async def _get(answer: Callable[[httpx.Request], httpx.Response]) -> Any:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://test") as http:
        return await Connection(http, "http://test", local=False).get("v1", "namespaces", "a/b ü")


async def test_parts_of_a_path_are_quoted() -> None:
    assert (
        await _get(lambda request: httpx.Response(200, json=str(request.url)))
        == "http://test/v1/namespaces/a%2Fb%20%C3%BC"
    )


async def test_a_problem_keeps_its_words() -> None:
    body = {"detail": "No such thing.", "next_step": "Look elsewhere.", "retryable": False}
    with pytest.raises(Refused) as caught:
        await _get(lambda _: httpx.Response(429, json=body, headers={"Retry-After": "3"}))
    assert (caught.value.message, caught.value.next_step) == ("No such thing.", "Look elsewhere.")
    assert (caught.value.http_status, caught.value.retry_after_s) == (429, 3.0)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(502, text="<html>Bad gateway</html>", headers={"Content-Type": "text/html"}),
        httpx.Response(404, json={"error": "another program"}),
        httpx.Response(200, text="hello"),
        httpx.Response(301, headers={"Location": "https://test/"}),
    ],
)
async def test_a_stranger_is_called_one(response: httpx.Response) -> None:
    with pytest.raises(NotReachable, match="no Ragline server"):
        await _get(lambda _: response)


async def test_events_are_read_until_the_stream_ends() -> None:
    text = 'event: token\ndata: {"text": "a\u2028b"}\n\nevent: done\ndata: {}\n\n'
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text=text))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        server = Connection(http, "http://test", local=False)
        assert [event async for event in server.events("v1", "answers", body={})] == [
            ("token", {"text": "a\u2028b"}),
            ("done", {}),
        ]


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://[::1", "http:///path"])
async def test_an_address_that_is_none_is_wrong_usage(url: str) -> None:
    with pytest.raises(WrongUsage, match="no HTTP address"):
        async with connect(Where(url=url)):
            pass


def test_exit_codes() -> None:
    assert exit_code(ConfigurationError("", next_step="")) == 2
    assert exit_code(NotReachable("", next_step="")) == 3
    assert exit_code(EngineUnavailable("", next_step="", engine="x")) == 3
    assert exit_code(NotFound("", next_step="")) == 1
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(ValueError()) == 1


def test_a_defect_is_short_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(ValueError("odd"), as_json=False, debug=False) == 1
    short = capsys.readouterr().err
    assert "ValueError: odd" in short
    assert "Traceback" not in short
    try:
        raise ValueError("odd")
    except ValueError as error:
        report(error, as_json=False, debug=True)
    assert "Traceback" in capsys.readouterr().err
