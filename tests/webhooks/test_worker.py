"""The loop over each store that keeps deliveries, with real receivers that verify."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ragline import metrics
from ragline.clock import SystemClock
from ragline.connections.database import sqlite_url
from ragline.errors import EngineUnavailable
from ragline.jobstores.redis import RedisJobStore
from ragline.jobstores.sql import SqlJobStore
from ragline.protocols import JobStore, WebhookOutbox
from ragline.settings import Settings, WebhooksSettings
from ragline.testing.jobstores import done, failed, generating
from ragline.types import DeliveryState, Job, WebhookDelivery
from ragline.webhooks import worker as module
from ragline.webhooks.addresses import Addresses
from ragline.webhooks.sender import Sender
from ragline.webhooks.signing import Signing
from ragline.webhooks.worker import WebhookWorker
from tests.engines.postgres import Postgres
from tests.engines.redis import Redis
from tests.receiving import HANGS, SECRET, Answer, Receiver, receiving

WITHIN_S = 60.0
BODY = b'{"type":"job.done","timestamp":"2026-11-27T07:00:00Z","data":{"job_id":"1"}}'
QUICK: dict[str, Any] = {
    "allow_http": True, "allow_networks": ["127.0.0.0/8", "::1/128"], "secrets": [SECRET], "first_backoff_s": 0.001,
    "longest_backoff_s": 0.01, "timeout_s": 60.0,
}  # fmt: skip


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[JobStore]:
    store = await SqlJobStore.open(sqlite_url(tmp_path / "jobs.sqlite"), SystemClock())
    yield store
    await store.aclose()


@pytest.fixture
async def postgresql(postgres: Postgres) -> AsyncIterator[JobStore]:
    store = await SqlJobStore.open(await postgres.database(), SystemClock())
    yield store
    await store.aclose()


@pytest.fixture
async def in_redis(own_redis: Redis) -> AsyncIterator[JobStore]:
    store = await RedisJobStore.open(own_redis.url())
    yield store
    await store.aclose()


@pytest.fixture(params=["sqlite", "postgresql", "in_redis"])
def store(request: pytest.FixtureRequest) -> JobStore:
    found: JobStore = request.getfixturevalue(request.param)
    return found


@asynccontextmanager
async def working(outbox: Any, **given: Any) -> AsyncIterator[None]:
    settings = Settings(webhooks=WebhooksSettings.model_validate(QUICK | given))
    addresses = Addresses(settings.webhooks)
    sender = Sender(addresses=addresses, signing=Signing(settings), clock=SystemClock(), settings=settings.webhooks)
    running = asyncio.create_task(WebhookWorker(outbox=outbox, sender=sender, settings=settings.webhooks).run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await sender.aclose()
        await addresses.aclose()


async def ended(store: JobStore, url: str, *, well: bool = True) -> Job:
    """A job that tells `url` of its end."""
    job = await generating(store, webhook=url)
    assert await store.finish(job.id, job.attempt, done(webhook=BODY) if well else failed(webhook=BODY))
    return job


async def all_are(store: JobStore, state: DeliveryState, *, many: int) -> list[WebhookDelivery]:
    async with asyncio.timeout(WITHIN_S):
        while len(found := await store.deliveries(principal=None, state=state, most=200)) < many:
            await asyncio.sleep(0.01)
    assert len(found) == len(await store.deliveries(principal=None, state=None, most=200)) == many
    return found


def counted(outcome: str) -> float:
    return metrics.webhook_deliveries_total.labels(outcome)._value.get()  # type: ignore[no-any-return]


async def test_each_end_is_told_once_and_verified(store: JobStore) -> None:
    before = counted("delivered")
    async with receiving(Answer(200, body=b"ok")) as receiver:
        jobs = [await ended(store, receiver.url(f"/{n}"), well=n % 2 == 0) for n in range(6)]
        async with working(store):
            found = await all_are(store, "delivered", many=6)
        assert {got.id for got in receiver.got} == {f"msg_{job.id}" for job in jobs}
        assert len(receiver.got) == 6
        for got in receiver.got:
            assert got.verified()["type"] == "job.done"
    assert {(one.attempt, one.status, one.error) for one in found} == {(1, 200, "")}
    assert counted("delivered") == before + 6


async def test_the_id_is_the_same_at_every_try_and_each_try_is_signed_anew(store: JobStore) -> None:
    async with receiving(Answer(500), Answer(then="break"), Answer(302, ("Location: /",)), Answer(204)) as receiver:
        job = await ended(store, receiver.url())
        async with working(store):
            (found,) = await all_are(store, "delivered", many=1)
        assert [got.id for got in receiver.got] == [f"msg_{job.id}"] * 4
        assert [got.verified() for got in receiver.got] == [receiver.got[0].verified()] * 4
    assert (found.attempt, found.status, found.error) == (4, 204, "")


async def test_dead_after_so_many_tries_and_after_a_replay_it_has_them_all_again(store: JobStore) -> None:
    async with receiving(Answer(500)) as receiver:
        job = await ended(store, receiver.url())
        async with working(store, attempts=2):
            (dead,) = await all_are(store, "dead", many=1)
            assert (dead.attempt, dead.status, dead.error) == (2, 500, "It answered 500.")
            receiver.answers[:] = [Answer(503), Answer(204)]
            await store.replay_delivery(dead.id, principal="ann")
            (found,) = await all_are(store, "delivered", many=1)
        assert (found.attempt, found.status) == (4, 204)
        assert [got.id for got in receiver.got] == [f"msg_{job.id}"] * 4
        assert receiver.got[-1].verified()


async def test_one_that_hangs_holds_up_no_other(store: JobStore) -> None:
    """Also when there are more for it than this process sends at all, all of them older."""
    async with receiving(HANGS) as slow, receiving() as quick:
        for _ in range(8):
            await ended(store, slow.url())
        jobs = [await ended(store, quick.url(host="localhost")) for _ in range(5)]
        async with working(store, concurrency=3, of_host=2):
            await quick.until(lambda: len(quick.got) == 5)
            await slow.until(lambda: len(slow.got) == 2)
            async with asyncio.timeout(WITHIN_S):
                while len(await store.deliveries(principal=None, state="delivered", most=99)) < 5:
                    await asyncio.sleep(0.01)
            assert len(slow.got) == 2, "no more of them at a time"
            slow.answers[:] = [Answer()]
        assert {got.id for got in quick.got} == {f"msg_{job.id}" for job in jobs}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that stops waits for nobody."""
    monkeypatch.setattr(module, "DRAIN_S", 0.0)


@pytest.mark.usefixtures("at_once")
async def test_who_stops_gives_back_what_is_under_way(store: JobStore) -> None:
    async with receiving(HANGS) as receiver:
        job = await ended(store, receiver.url())
        async with working(store):
            await receiver.until(lambda: len(receiver.got) == 1)
        (given_back,) = await store.deliveries(principal=None, state="waiting", most=9)
        assert "stopped" in given_back.error
        receiver.answers[:] = [Answer()]
        async with working(store):  # it is due at once, not when the lease ends
            await all_are(store, "delivered", many=1)
        assert [got.id for got in receiver.got] == [f"msg_{job.id}"] * 2


async def test_who_stops_lets_what_is_under_way_end(sqlite: JobStore) -> None:
    go = asyncio.Event()
    async with receiving() as receiver:
        await ended(sqlite, receiver.url())

        class Slowly(_Passing):
            async def delivered(self, id: str, attempt: int, *, status: int) -> bool:
                go.set()
                await asyncio.sleep(0)
                return await self.outbox.delivered(id, attempt, status=status)

        async with working(Slowly(sqlite)):
            await go.wait()
        await all_are(sqlite, "delivered", many=1)
        assert len(receiver.got) == 1


async def test_410_is_the_end_of_it(sqlite: JobStore) -> None:
    async with receiving(Answer(410)) as receiver:
        await ended(sqlite, receiver.url())
        async with working(sqlite):
            (dead,) = await all_are(sqlite, "dead", many=1)
    assert (dead.attempt, dead.status) == (1, 410)
    assert len(receiver.got) == 1


async def test_retry_after_is_waited_for(sqlite: JobStore) -> None:
    async with receiving(Answer(429, ("Retry-After: 120",))) as receiver:
        await ended(sqlite, receiver.url())
        async with working(sqlite):
            put_off = await _put_off(sqlite)
    assert put_off.due_at - SystemClock().now() > 60
    assert (put_off.status, put_off.error) == (429, "It answered 429.")


async def _put_off(store: JobStore) -> WebhookDelivery:
    async with asyncio.timeout(WITHIN_S):
        while True:
            (found,) = await store.deliveries(principal=None, state="waiting", most=9)
            if found.error:
                return found
            await asyncio.sleep(0.01)


async def test_waits_grow_fourfold_up_to_the_longest_and_are_not_all_the_same(sqlite: JobStore) -> None:
    settings = WebhooksSettings()
    worker = WebhookWorker(outbox=sqlite, sender=None, settings=settings)  # type: ignore[arg-type]
    waits = [[worker._backoff_s(tries, None) for _ in range(50)] for tries in range(1, settings.attempts)]
    for tries, some in enumerate(waits):
        whole = min(settings.longest_backoff_s, settings.first_backoff_s * 4**tries)
        assert all(whole / 2 <= one <= whole for one in some)
        assert len(set(some)) > 1
    assert 86_400 < sum(min(some) for some in waits) * 2 < 2 * 86_400, "as the setting says"
    assert worker._backoff_s(1, 300.0) == 300.0
    assert worker._backoff_s(10_000, None) <= settings.longest_backoff_s


class _Passing:
    """An outbox that a test changes in one place."""

    def __init__(self, outbox: WebhookOutbox) -> None:
        self.outbox = outbox

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return getattr(self.outbox, name)  # type: ignore[no-any-return]


async def test_a_store_that_is_away_for_the_word_costs_a_second_sending(sqlite: JobStore, tmp_path: Path) -> None:
    class Away(_Passing):
        async def delivered(self, id: str, attempt: int, *, status: int) -> bool:
            if attempt == 1:
                _leases_end(tmp_path)
                raise EngineUnavailable("The store is away.", next_step="Wait.", engine="jobs:test")
            return await self.outbox.delivered(id, attempt, status=status)

    before = counted("unwritten")
    async with receiving() as receiver:
        await ended(sqlite, receiver.url())
        async with working(Away(sqlite)):
            await all_are(sqlite, "delivered", many=1)
        assert len({got.id for got in receiver.got}) == 1
        assert len(receiver.got) == 2
    assert counted("unwritten") == before + 1


def _leases_end(folder: Path) -> None:
    with sqlite3.connect(folder / "jobs.sqlite", timeout=30) as connection:
        connection.execute("UPDATE job_deliveries SET due_at = 0")
    connection.close()


ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import asyncio, os, signal, sys
from ragline.clock import SystemClock
from ragline.jobstores.sql import SqlJobStore
from tests.webhooks.test_worker import _Passing, working

class Killed(_Passing):
    async def delivered(self, id, attempt, *, status):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    store = await SqlJobStore.open(sys.argv[1], SystemClock())
    async with working(Killed(store), timeout_s=1.0):
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def _killed(url: str, receiver: Receiver) -> None:
    """A process that sends, and is killed before it can say so."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, url, cwd=ROOT)
    async with asyncio.timeout(WITHIN_S):
        assert await process.wait() == -signal.SIGKILL
    assert len(receiver.got) == 1


async def test_killed_between_the_sending_and_the_word_it_is_sent_again_under_the_same_id(postgres: Postgres) -> None:
    url = await postgres.database()
    store = await SqlJobStore.open(url, SystemClock())
    async with receiving() as receiver:
        job = await ended(store, receiver.url())
        await _killed(url, receiver)
        (held,) = await store.deliveries(principal=None, state="waiting", most=9)
        assert held.due_at > SystemClock().now(), "its lease: nobody sends it twice meanwhile"
        assert await store.put_off_delivery(held.id, held.attempt, after_s=0.0, status=None, error="")  # time passes
        async with working(store):
            (found,) = await all_are(store, "delivered", many=1)
        assert [got.id for got in receiver.got] == [f"msg_{job.id}"] * 2
        assert receiver.got[0].verified() == receiver.got[1].verified()
    assert found.attempt == 2
    await store.aclose()


async def test_a_defect_costs_a_try_and_no_other_delivery(sqlite: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Sender.send

    async def breaks(self: Sender, delivery: WebhookDelivery) -> Any:
        if delivery.url.endswith("/bad"):
            raise RuntimeError("a defect")
        return await send(self, delivery)

    monkeypatch.setattr(Sender, "send", breaks)
    async with receiving() as receiver:
        bad, good = await ended(sqlite, receiver.url("/bad")), await ended(sqlite, receiver.url())
        async with working(sqlite, attempts=2), asyncio.timeout(WITHIN_S):
            while await sqlite.deliveries(principal=None, state="waiting", most=9):
                await asyncio.sleep(0.01)
        (dead,) = await sqlite.deliveries(principal=None, state="dead", most=9)
        assert (dead.job, dead.attempt, "RuntimeError" in dead.error) == (bad.id, 2, True)
        assert [got.id for got in receiver.got] == [f"msg_{good.id}"]


async def test_one_whose_tries_all_ended_with_their_process_is_dead_at_last(sqlite: JobStore, tmp_path: Path) -> None:
    async with receiving() as receiver:
        await ended(sqlite, receiver.url())
        for _ in range(2):
            assert await sqlite.claim_deliveries(most=1, of_host=1, in_flight={}, lease_s=600.0)
            _leases_end(tmp_path)
        async with working(sqlite, attempts=2):
            (dead,) = await all_are(sqlite, "dead", many=1)
        assert (dead.attempt, receiver.got) == (3, [])


async def test_a_late_word_of_a_try_that_is_not_the_newest_changes_nothing(sqlite: JobStore, tmp_path: Path) -> None:
    """Paused in the middle, for longer than its lease: another try is under way, and it alone has a say."""
    before = counted("lost")

    class Paused(_Passing):
        async def delivered(self, id: str, attempt: int, *, status: int) -> bool:
            if attempt == 1:
                _leases_end(tmp_path)
                await self.outbox.claim_deliveries(most=1, of_host=9, in_flight={}, lease_s=600.0)
            return await self.outbox.delivered(id, attempt, status=status)

    async with receiving() as receiver:
        await ended(sqlite, receiver.url())
        async with working(Paused(sqlite)):
            async with asyncio.timeout(WITHIN_S):
                while counted("lost") == before:
                    await asyncio.sleep(0.01)
        (found,) = await sqlite.deliveries(principal=None, state=None, most=9)
    assert (found.state, found.attempt) == ("waiting", 2)
