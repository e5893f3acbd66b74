"""Calls against the real server: what is repeated and what is not, what a refusal says, documents and namespaces."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse

from ragline.api.problems import problem
from ragline.client import (
    AsyncClient,
    Closed,
    DocumentFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotReachable,
    NotUnderstood,
    Overloaded,
    Refused,
    ServerFailed,
    TimedOut,
    Unauthenticated,
)
from ragline.client.errors import ClientError, refused
from ragline.client.retrying import FIRST_S, MOST_S, may_repeat, pause_s
from ragline.client.sse import Frame, Frames
from ragline.errors import EngineUnavailable
from ragline.errors import Overloaded as Full
from tests.api.conftest import OWNER, Api
from tests.client.conftest import WITHIN_S, Gate
from tests.client.cutting import Cutting
from tests.engines.server import free_port
from tests.job_house import QUESTION

FULL = Full("Too much at once.", next_step="Wait.", retry_after_s=1)
AWAY = EngineUnavailable("The vectors are away.", next_step="Wait.", engine="vectors:faiss")


# ── what is asked again ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_refused_for_the_moment_then_taken(client: AsyncClient, gate: Gate) -> None:
    gate.answers = [problem(FULL), problem(AWAY), PlainTextResponse("Bad gateway", 502)]
    found = await client.search(QUESTION)
    assert found.passages[0].uri == "returns.md"
    assert len(gate.seen) == 4
    assert len(set(gate.passed("x-request-id"))) == 1


async def test_a_question_that_is_sent_again_is_one_job(client: AsyncClient, gate: Gate, api: Api, url: str) -> None:
    gate.answers = [problem(AWAY)]
    job = await client.ask(QUESTION)
    first, second = gate.passed("idempotency-key")
    assert first
    assert first == second
    async with Cutting(url) as line, AsyncClient(line.url, key=OWNER, timeout_s=WITHIN_S) as cut:
        line.after_bytes = 20  # the job is accepted, and nobody hears of it
        again = await cut.ask(QUESTION)
        assert line.cuts == 1
    assert again.id != job.id
    listed = [one.id async for one in client.jobs()]
    assert listed[:2] == [again.id, job.id]
    mine = [await client.ask(QUESTION, idempotency_key="mine") for _ in range(2)]
    assert mine[0].id == mine[1].id


async def test_what_may_have_been_done_is_not_done_again(client: AsyncClient, gate: Gate, url: str) -> None:
    uploaded = await client.upload("brief.md", b"# Brief\n\nA brief text.")
    gate.seen.clear()
    gate.answers = [problem(AWAY)]
    with pytest.raises(ServerFailed) as away:
        await client.delete_document(uploaded.id)
    assert (away.value.status, away.value.code, away.value.retryable) == (503, "EngineUnavailable", True)
    assert away.value.retry_after_s == 1
    assert len(gate.seen) == 1
    async with Cutting(url) as line, AsyncClient(line.url, key=OWNER, timeout_s=WITHIN_S) as cut:
        line.after_bytes = 20
        with pytest.raises(NotReachable, match="may have been done") as broken:
            await cut.delete_document(uploaded.id)
        assert broken.value.sent
        assert line.taken == 1
    with pytest.raises(NotFound):
        await client.delete_document(uploaded.id)
    gate.answers = [problem(FULL)]  # nothing was done: it may be asked again
    with pytest.raises(NotFound):
        await client.delete_document(uploaded.id)
    assert not gate.answers


async def test_tries_and_time_are_bounded(client: AsyncClient, gate: Gate, url: str) -> None:
    gate.answers = [problem(AWAY) for _ in range(9)]
    async with AsyncClient(url, key=OWNER, tries=2) as twice:
        with pytest.raises(ServerFailed):
            await twice.search(QUESTION)
    assert len(gate.seen) == 2
    gate.answers = [problem(Full("Full.", next_step="Wait.", retry_after_s=3600))]
    with pytest.raises(Overloaded) as full:  # rather than wait for an hour in vain
        await client.search(QUESTION)
    assert full.value.retry_after_s == 3600
    with pytest.raises(TimedOut, match="POST /v1/search") as late:
        await client.with_timeout(0.0).search(QUESTION)
    assert isinstance(late.value, TimeoutError)
    assert (await client.search(QUESTION)).passages


async def test_where_one_replica_is_gone_the_next_is_asked_whatever_it_is(url: str, gate: Gate) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    async with AsyncClient(gone, url, key=OWNER, timeout_s=WITHIN_S) as client:
        uploaded = await client.upload("gone.md", b"# Gone\n\nA text.")
        await client.delete_document(uploaded.id)
        assert len(gate.seen) == 2
    async with AsyncClient(gone, key=OWNER, tries=2) as client:
        with pytest.raises(NotReachable) as refused:
            await client.search(QUESTION)
        assert not refused.value.sent


def test_when_a_call_is_repeated() -> None:
    def said(status: int, *, retryable: bool = True) -> ClientError:
        return refused({"retryable": retryable}, status, request_id="", retry_after_s=None)

    cut, away = (NotReachable("x", next_step="y", sent=sent) for sent in (True, False))
    for error, always, harmless in (
        (cut, False, True), (away, True, True), (said(429), True, True), (said(503), False, True), (said(504), False, True),
        (said(502, retryable=False), False, False), (said(404), False, False), (said(500), False, False),
        (TimedOut("x", next_step="y"), False, False), (Closed(), False, False),
    ):  # fmt: skip
        assert may_repeat(error, repeatable=False) == always
        assert may_repeat(error, repeatable=True) == harmless


def test_pauses_grow_differ_and_are_no_shorter_than_asked_for() -> None:
    pauses = [[pause_s(failed, None, random.Random(seed)) for seed in range(50)] for failed in range(1, 2000, 3)]
    assert all(FIRST_S / 2 <= one <= MOST_S for some in pauses for one in some)
    assert all(len(set(some)) == 50 for some in pauses)
    assert max(pauses[0]) < min(pauses[1]) < min(pauses[-1])
    assert all(7.0 <= pause_s(1, 7.0, random.Random(seed)) <= 7.0 + FIRST_S for seed in range(50))


# ── what a refusal says ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_refusals_are_told_apart_and_say_what_to_do(client: AsyncClient, api: Api, url: str) -> None:
    with pytest.raises(NotFound) as none:
        await client.search(QUESTION, namespace="none")
    assert (none.value.status, none.value.code, none.value.retryable) == (404, "NotFound", False)
    assert "none" in none.value.message
    assert none.value.next_step in str(none.value)
    assert len(none.value.request_id) == 32
    with pytest.raises(InvalidRequest) as wrong:
        await client.search(QUESTION, filters={"nosuch": 1})
    assert wrong.value.field == "filters.nosuch"
    with pytest.raises(InvalidRequest) as webhook:
        await client.ask(QUESTION, webhook="ftp://example.org")
    assert webhook.value.field == "webhook"
    async with AsyncClient(url, key="rgl_wrong_key") as stranger:
        with pytest.raises(Unauthenticated) as unknown:
            await stranger.search(QUESTION)
        assert "rgl_wrong_key" not in str(unknown.value) + repr(stranger)
    reader = await api.new_key(principal="ann")
    async with AsyncClient(url, key=reader) as ann:
        with pytest.raises(Forbidden):
            await ann.upload("a.md", b"a")


async def test_what_is_no_ragline_server(client: AsyncClient, gate: Gate) -> None:
    for stranger in (
        PlainTextResponse("Hello"), RedirectResponse("http://example.org/"), PlainTextResponse("No", 404),
        JSONResponse(["a", "list"]), JSONResponse({"passages": [{}]}), JSONResponse({"passages": None}),
    ):  # fmt: skip
        gate.answers = [stranger]
        with pytest.raises(NotUnderstood) as not_understood:
            await client.search(QUESTION)
        assert not_understood.value.next_step
    gate.answers = [PlainTextResponse("Busy", 503)] * 2
    with pytest.raises(Refused) as busy:
        await client.delete_document("x")
    assert (busy.value.status, busy.value.code) == (503, "")
    gate.answers = [JSONResponse(json.loads(bytes(problem(AWAY).body)), 504, {"x-request-id": "of-a-proxy"})]
    with pytest.raises(ServerFailed) as named:
        await client.delete_document("x")
    assert named.value.request_id == "of-a-proxy"


async def test_a_newer_server_is_understood(client: AsyncClient, gate: Gate) -> None:
    gate.answers = [JSONResponse({"jobs": [], "next": None, "new": {"a": 1}})]
    assert [job async for job in client.jobs()] == []
    found = {
        "passages": [],
        "degraded": ["new"],
        "epoch": "v1",
        "sequence": 1,
        "cached": False,
        "timings_ms": {},
        "new": 1,
    }
    gate.answers = [JSONResponse(found)]
    assert (await client.search(QUESTION)).degraded == ("new",)


@pytest.mark.parametrize(
    "urls",
    [(), ("localhost:8080",), ("ftp://a",), ("http://",), ("http://u:secret@a",), ("http://a?x=1",)],
)
def test_addresses_that_cannot_be(urls: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"http://|key") as wrong:
        AsyncClient(*urls)
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize("key", ["", "rgl a", "rgl\r\nX: 1", "rgl_ü"])
def test_keys_that_cannot_be(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as wrong:
        AsyncClient("http://a", key=key)
    assert not key or key not in str(wrong.value)


@pytest.mark.parametrize("name", ["", ".", ".."])
async def test_names_that_lead_elsewhere_are_sent_nowhere(client: AsyncClient, gate: Gate, name: str) -> None:
    with pytest.raises(ValueError, match="name of nothing"):
        await client.delete_document(name)
    assert gate.seen == []
    with pytest.raises(NotFound):
        await client.document("../../keys")


async def test_closed_while_it_waits(url: str, gate: Gate) -> None:
    async with AsyncClient(url, key=OWNER) as client:
        await client.aclose()
        with pytest.raises(Closed):
            await client.search(QUESTION)
        with pytest.raises(Closed):
            await client.with_timeout(1).search(QUESTION)


# ── documents and namespaces ─────────────────────────────────────────────────────────────────────────────────────────


async def test_documents_from_upload_to_deletion(client: AsyncClient, tmp_path: Path) -> None:
    space = await client.put_namespace("words", fields={"year": "integer"})
    assert (space.name, space.settings.fields, space.sequence) == ("words", {"year": "integer"}, 0)
    text = "# Größen\n\nDie größte Größe ist 三十 Fuß lang. 🙂"
    uploaded = await client.upload(
        "ordner/größe 🙂.md", text.encode(), namespace="words", title="Größe", metadata={"year": 2025}, groups=["hr"]
    )
    assert (uploaded.outcome, uploaded.uri) == ("created", "ordner/größe 🙂.md")
    live = await client.wait_live(uploaded, timeout_s=WITHIN_S)
    assert (live.title, live.metadata, live.groups, live.state) == ("Größe", {"year": 2025}, ("hr",), "indexed")
    assert live.size == len(text.encode())
    path = tmp_path / "größe.md"
    path.write_text(text)
    again = await client.upload(
        uploaded.uri, path, namespace="words", title="Größe", metadata={"year": 2025}, groups=["hr"]
    )
    assert (again.outcome, again.id, again.revision) == ("unchanged", uploaded.id, uploaded.revision)
    opened = await client.upload(uploaded.uri, path, namespace="words", title="Größe", metadata={"year": 2025})
    assert opened.outcome == "payload"
    found = await client.search(
        "größte Größe", namespace="words", filters={"year": {"gte": 2025}}, min_sequence=opened.sequence, top_k=1
    )
    assert found.passages[0].text == text.removeprefix("# ")
    assert [one.id async for one in client.documents(namespace="words", uri=uploaded.uri)] == [uploaded.id]
    gone = await client.delete_document(uploaded.id, namespace="words")
    assert (gone.uri, gone.inside) == (uploaded.uri, 0)
    assert [one async for one in client.documents(namespace="words")] == []
    with pytest.raises(NotFound):
        await client.wait_live(opened, timeout_s=WITHIN_S)
    await client.delete_namespace("words")
    assert "words" not in [one.name for one in await client.namespaces()]
    with pytest.raises(NotFound):
        await client.namespace("words")


async def test_a_document_that_fails_says_why(client: AsyncClient) -> None:
    uploaded = await client.upload("torn.pdf", b"%PDF-1.7\nnothing of a PDF")
    with pytest.raises(DocumentFailed) as failed:
        await client.wait_live(uploaded, timeout_s=WITHIN_S)
    assert failed.value.reason == failed.value.document.reason
    assert "damaged" in failed.value.reason
    with pytest.raises(TimedOut, match="not live in time"):
        await client.wait_live(await client.upload("late.md", b"# Late\n\nLate."), timeout_s=0.0)
    with pytest.raises(FileNotFoundError):
        await client.upload("none.md", Path("no such file"))


async def test_a_big_file_is_sent_again_whole_after_a_cut(
    client: AsyncClient, gate: Gate, url: str, tmp_path: Path
) -> None:
    path = tmp_path / "big.txt"
    line = b"This line stands in a big file, again and again, until it is big.\n"
    path.write_bytes(line * (24 * 1024 * 1024 // len(line)))
    gate.answers = [problem(AWAY)]  # while it is still being sent
    async with Cutting(url) as proxy, AsyncClient(proxy.url, key=OWNER, timeout_s=WITHIN_S) as cut:
        proxy.after_bytes = 20
        uploaded = await cut.upload("big.txt", path)
        assert proxy.cuts == 1
    assert (await client.document(uploaded.id)).size == path.stat().st_size
    await client.delete_document(uploaded.id)


async def test_lists_go_on_over_all_pages(client: AsyncClient, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ragline.client.asynchronous.PAGE", 2)
    await client.put_namespace("many")
    made = await asyncio.gather(*(client.upload(f"{n}.md", f"# {n}".encode(), namespace="many") for n in range(5)))
    gate.seen.clear()
    assert [one.id async for one in client.documents(namespace="many")] == sorted(one.id for one in made)
    assert len(gate.seen) == 3
    asked = [(await client.ask(QUESTION, namespace="many")).id for _ in range(3)]
    listed = [one.id async for one in client.jobs()]
    assert listed[:3] == asked[::-1]
    await client.delete_namespace("many")


# ── events out of bytes ──────────────────────────────────────────────────────────────────────────────────────────────


def test_events_are_the_same_however_the_bytes_are_cut() -> None:
    one = '{"text": "größe\u2028 a: b"}'
    text = f": alive\n\nid: 1\nevent: token\ndata: {one}\n\nevent: done\r\ndata:  x\r\ndata: y\r\n\r\nid: 3\n"
    wanted = [Frame(), Frame("1", "token", one), Frame("", "done", " x\ny")]
    data = text.encode()
    for first in range(len(data)):
        for second in range(first, len(data), 7):
            frames = Frames()
            pieces = (data[:first], data[first:second], data[second:])
            assert [frame for piece in pieces for frame in frames.feed(piece)] == wanted
