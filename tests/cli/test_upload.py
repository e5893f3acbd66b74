"""Uploads that meet a server which is busy, choosy, or away."""

from __future__ import annotations

import json
from collections.abc import Callable
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from typing import Any

import httpx
import pytest

from ragline.cli.connection import Connection
from ragline.cli.failures import NotReachable, Refused
from ragline.cli.sources import Item
from ragline.cli.upload import MOST_ITEMS, MOST_TRIES, Tally, Uploader

Answer = Callable[[dict[str, list[str]]], httpx.Response]


class Server:
    """Says what `answer` says; keeps the form of each request."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[dict[str, list[str]]] = []
        self.pauses: list[float] = []
        self.tally = Tally()
        self._answer = answer

    async def take(self, *items: Item, groups: tuple[str, ...] = ()) -> Tally:
        async with httpx.AsyncClient(transport=httpx.MockTransport(self._handle), base_url="http://test") as http:
            connection = Connection(http, "http://test", local=False)
            await Uploader(connection, "default", groups, self.tally, pause=self._pause).send(iter(items))
        return self.tally

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        head = b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
        message = BytesParser(EmailMessage, policy=HTTP).parsebytes(head + await request.aread())
        form: dict[str, list[str]] = {}
        for part in message.iter_parts():
            assert isinstance(part, EmailMessage)
            name = str(part.get_param("name", header="content-disposition"))
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            form.setdefault(name, []).append(payload.decode())
        self.requests.append(form)
        return self._answer(form)


def accepted(form: dict[str, list[str]]) -> httpx.Response:
    documents = [{"id": f"id-{uri}", "uri": uri, "revision": 1, "state": "received"} for uri in form["uri"]]
    return httpx.Response(202, json={"documents": documents, "sequence": len(documents)})


def problem(
    status: int, *, retryable: bool = False, headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    body = {"detail": f"answer {status}", "next_step": "Do otherwise.", "retryable": retryable, **more}
    return httpx.Response(status, json=body, headers=headers)


def item(uri: str, data: bytes = b"x") -> Item:
    return Item(uri=uri, size=len(data), data=data)


async def test_items_travel_in_batches_with_words_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"from a file")
    server = Server(accepted)
    first = Item(uri="f", size=11, path=tmp_path / "f", title="T", metadata={"year": 1})
    tally = await server.take(first, *(item(f"u{n}") for n in range(MOST_ITEMS)), groups=("a", "b"))
    assert sorted(len(form["uri"]) for form in server.requests) == [1, MOST_ITEMS]
    form = next(form for form in server.requests if "f" in form["uri"])
    assert (form["file"][0], form["title"][0], form["groups"]) == ("from a file", "T", ["a", "b"])
    assert [json.loads(value) for value in form["metadata"]][:2] == [{"year": 1}, {}]
    assert len(tally.accepted) == tally.found == MOST_ITEMS + 1
    assert tally.sent_bytes == 11 + MOST_ITEMS


async def test_a_busy_server_is_waited_for_as_long_as_it_says() -> None:
    answers = iter([problem(429, retryable=True, headers={"Retry-After": "7"})] * (MOST_TRIES + 3))
    server = Server(lambda form: next(answers, None) or accepted(form))
    assert list((await server.take(item("a"))).accepted) == ["id-a"]
    assert server.pauses == [7.0] * (MOST_TRIES + 3)


async def test_an_engine_that_fails_is_tried_again_but_not_for_ever() -> None:
    server = Server(lambda form: problem(503, retryable=True))
    with pytest.raises(Refused, match="answer 503"):
        await server.take(item("a"))
    assert len(server.requests) == MOST_TRIES


async def test_a_server_that_comes_back_gets_it_again() -> None:
    failures = iter([True, True])

    def answer(form: dict[str, list[str]]) -> httpx.Response:
        if next(failures, False):
            raise httpx.ReadError("reset")
        return accepted(form)

    server = Server(answer)
    assert list((await server.take(item("a"))).accepted) == ["id-a"]

    def gone(form: dict[str, list[str]]) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(NotReachable, match="refused"):
        await Server(gone).take(item("a"))


@pytest.mark.parametrize("status", [413, 415, 422])
async def test_what_one_item_is_guilty_of_the_others_do_not_suffer(status: int) -> None:
    server = Server(lambda form: problem(status) if "bad" in form["uri"] else accepted(form))
    tally = await server.take(*(item(uri) for uri in ("a", "bad", "c", "d", "e")))
    assert sorted(tally.accepted) == ["id-a", "id-c", "id-d", "id-e"]
    assert [(trouble.uri, trouble.reason) for trouble in tally.troubles] == [
        ("bad", f"refused: answer {status} Do otherwise.")
    ]


async def test_a_refused_file_inside_an_accepted_request_is_reported() -> None:
    def answer(form: dict[str, list[str]]) -> httpx.Response:
        refused = {"uri": "bad", "state": "refused", "reason": "its metadata"}
        return httpx.Response(202, json={"documents": [refused], "sequence": 3})

    tally = await Server(answer).take(item("bad"))
    assert (tally.accepted, tally.troubles[0].reason, tally.sequence) == ({}, "refused: its metadata", 3)


async def test_what_is_wrong_with_every_request_ends_the_run() -> None:
    for answer in (problem(403), problem(404), problem(422, field="groups")):
        server = Server(lambda form, answer=answer: answer)  # type: ignore[misc]
        with pytest.raises(Refused):
            await server.take(item("a"), item("b"))
        assert len(server.requests) == 1


async def test_a_file_that_vanishes_costs_only_itself(tmp_path: Path) -> None:
    tally = await Server(accepted).take(item("a"), Item(uri="gone", size=1, path=tmp_path / "gone"), item("c"))
    assert sorted(tally.accepted) == ["id-a", "id-c"]
    assert tally.troubles[0].reason == "cannot be read: No such file or directory"
