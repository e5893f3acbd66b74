"""The contract of `JobStore`, as tests.

class TestMine(JobStoreContract):
    @pytest.fixture
    async def connect(self):
        url = a store of its own for each test
        return an async function that opens the adapter, each time on the same store

    @pytest.fixture
    def pass_time(self):
        return an async function (seconds) that makes all that the store holds older by so much
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from ragline.errors import Conflict, Gone, InvalidRequest, NotFound, Overloaded
from ragline.protocols import JobStore
from ragline.types import (
    IDEMPOTENCY_S,
    WORKER_LOST,
    Ending,
    Job,
    JobLimits,
    JobOrder,
    JobState,
    NewEvent,
    QueueName,
    SearchRequest,
    delivery_id,
)

Connect = Callable[[], Awaitable[JobStore]]
PassTime = Callable[[float], Awaitable[None]]

ROOM = JobLimits(most=1_000, of_namespace=1_000)
LEASE_S = 3600.0
WITHIN_S = 30.0
"""For what must happen. Nothing is asserted about how long it took."""

_number = count(0x18C_0000_0000)


def order(query: str = "How do herons fish?", *, namespace: str = "default", **given: Any) -> JobOrder:
    """A new one at each call, with an id greater than the one before."""
    request = SearchRequest(query, namespace, frozenset({"ops", "hr"}), filters={"year": [2023, 2024]}, min_sequence=7)
    values: dict[str, Any] = {
        "id": f"{next(_number):012x}{'5' * 20}", "principal": "ann", "request": request, "deadline_s": LEASE_S / 2,
        "fingerprint": query,
    }  # fmt: skip
    return JobOrder(**(values | given))


def done(text: str = "By standing still.", *, webhook: bytes | None = None) -> Ending:
    return Ending(
        JobState.DONE, (NewEvent("token", '{"text": "still."}'), NewEvent("done", f'{{"answer": "{text}"}}')),
        answer=text.encode(), webhook=webhook,
    )  # fmt: skip


def failed(reason: str = "deadline", *, webhook: bytes | None = None) -> Ending:
    return Ending(
        JobState.FAILED, (NewEvent("failed", f'{{"reason": "{reason}"}}'),), reason=reason, detail="It took too long.",
        next_step="Ask again.", webhook=webhook,
    )  # fmt: skip


async def one(store: JobStore, queue: QueueName, *, lease_s: float = LEASE_S) -> Job:
    (job,) = await store.claim(queue, most=1, lease_s=lease_s)
    return job


async def generating(store: JobStore, **given: Any) -> Job:
    """A new job that has its passages, claimed for generation."""
    await store.accept(order(**given), ROOM)
    job = await one(store, "retrieval")
    assert await store.retrieved(job.id, job.attempt, b"passages", ttl_s=LEASE_S, events=[NewEvent("passages")])
    return await one(store, "generation")


async def told(store: JobStore, id: str) -> list[str]:
    """The names of its events; that ids have no gaps is checked by the way."""
    events = await store.events(id, after=0, most=1_000)
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    return [event.name for event in events]


@pytest.mark.asyncio
class JobStoreContract:
    ALONE = False
    """Whether the store belongs to one process: what another has told is then not heard of."""

    @pytest.fixture
    async def connect(self) -> Connect:
        """Yours: opens the adapter, each time on the same store."""
        raise NotImplementedError

    @pytest.fixture
    def pass_time(self) -> PassTime:
        """Yours: all that the store holds becomes older by so many seconds."""
        raise NotImplementedError

    @pytest_asyncio.fixture
    async def store(self, connect: Connect) -> AsyncIterator[JobStore]:
        store = await connect()
        yield store
        await store.aclose()

    # ── accepting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_an_accepted_job_is_what_was_asked(self, store: JobStore) -> None:
        origin = f"00-{'4b' * 16}-{'00f0' * 4}-01"
        asked = order("größtes 🦩 \u2028 'quoted' \\", webhook="https://example.org/hook", traceparent=origin)
        job, fresh = await store.accept(asked, ROOM)
        assert fresh
        assert (job.id, job.principal, job.request, job.webhook) == (asked.id, "ann", asked.request, asked.webhook)
        assert (job.state, job.queue, job.attempt, job.retries, job.events) == (JobState.QUEUED, "retrieval", 0, 0, 1)
        assert job.deadline_at - job.created_at == pytest.approx(asked.deadline_s, abs=1e-3)
        assert (job.finished_at, job.reason, job.answer, job.traceparent) == (None, None, None, origin)
        assert await store.get(job.id) == job
        assert await told(store, job.id) == ["queued"]
        (event,) = await store.events(job.id, after=0, most=10)
        assert (event.data, event.attempt) == ("{}", 0)

    async def test_unknown_jobs(self, store: JobStore) -> None:
        for call in (
            store.get("none"), store.events("none", after=0, most=1), store.cancel("none", failed()),
            store.retry("none", deadline_s=1.0, limits=ROOM),
        ):  # fmt: skip
            with pytest.raises(NotFound):
                await call
        assert not await store.renew("none", 1, lease_s=1.0)
        assert not await store.finish("none", 1, done())
        assert await store.passages("none") is None
        assert await store.latest(["none"]) == {}

    async def test_one_key_makes_one_job_whatever_its_state(self, store: JobStore) -> None:
        first, fresh = await store.accept(order(idempotency_key="k"), ROOM)
        assert fresh
        for step in ("queued", "claimed", "passages", "generating", "done"):
            again, fresh = await store.accept(order(idempotency_key="k"), ROOM)
            assert (again.id, fresh) == (first.id, False), step
            if step == "queued":
                job = await one(store, "retrieval")
            elif step == "claimed":
                assert await store.retrieved(job.id, job.attempt, b"p", ttl_s=60.0, events=[])
            elif step == "passages":
                job = await one(store, "generation")
            elif step == "generating":
                assert await store.finish(job.id, job.attempt, done())
        assert again.answer == b"By standing still."
        assert again.state is JobState.DONE

    async def test_the_same_key_with_another_order_is_refused_and_names_the_header(self, store: JobStore) -> None:
        await store.accept(order("one", idempotency_key="k"), ROOM)
        with pytest.raises(InvalidRequest) as refused:
            await store.accept(order("two", idempotency_key="k"), ROOM)
        assert refused.value.field == "Idempotency-Key"
        assert refused.value.status == 422
        assert (await store.lengths())["retrieval"] == 1

    async def test_a_key_is_one_principals_own(self, store: JobStore) -> None:
        first, _ = await store.accept(order(idempotency_key="k"), ROOM)
        other, fresh = await store.accept(order(idempotency_key="k", principal="bob"), ROOM)
        assert fresh
        assert other.id != first.id

    async def test_one_key_fifty_times_at_once_over_two_processes(self, store: JobStore, connect: Connect) -> None:
        other = await connect()
        try:
            calls = [(store, other)[n % 2].accept(order(idempotency_key="k"), ROOM) for n in range(50)]
            found = await asyncio.gather(*calls)
        finally:
            await other.aclose()
        assert len({job.id for job, _ in found}) == 1
        assert sum(fresh for _, fresh in found) == 1
        assert (await store.lengths())["retrieval"] == 1
        assert await told(store, found[0][0].id) == ["queued"]

    async def test_a_key_holds_for_a_day(self, store: JobStore, pass_time: PassTime) -> None:
        first, _ = await store.accept(order("one", idempotency_key="k", deadline_s=2 * IDEMPOTENCY_S), ROOM)
        await pass_time(IDEMPOTENCY_S - 60.0)
        assert (await store.accept(order("one", idempotency_key="k"), ROOM))[0].id == first.id
        await pass_time(120.0)
        second, fresh = await store.accept(order("two", idempotency_key="k"), ROOM)
        assert fresh
        assert second.id != first.id
        assert (await store.get(first.id)).id == first.id
        assert (await store.accept(order("two", idempotency_key="k"), ROOM))[0].id == second.id

    # ── back-pressure ───────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_full_queue_refuses_with_a_time_to_wait(self, store: JobStore) -> None:
        limits = JobLimits(most=2, of_namespace=2)
        await store.accept(order(), limits)
        await store.accept(order(), limits)
        with pytest.raises(Overloaded) as refused:
            await store.accept(order(), limits)
        assert refused.value.retry_after_s >= 1.0
        await one(store, "retrieval")
        with pytest.raises(Overloaded):  # a leased job counts as much as a waiting one
            await store.accept(order(), limits)

    async def test_a_full_generation_queue_refuses_too_until_a_job_ends(self, store: JobStore) -> None:
        limits = JobLimits(most=2, of_namespace=2)
        job = await generating(store)
        await generating(store)
        assert await store.lengths() == {"retrieval": 0, "generation": 2}
        with pytest.raises(Overloaded):
            await store.accept(order(), limits)
        await store.finish(job.id, job.attempt, done())
        assert (await store.accept(order(), limits))[1]

    async def test_a_namespace_has_its_share_and_no_more(self, store: JobStore) -> None:
        limits = JobLimits(most=5, of_namespace=2)
        await store.accept(order(namespace="loud", request=SearchRequest("q", "loud", frozenset())), limits)
        await store.accept(order(request=SearchRequest("q", "loud", frozenset())), limits)
        with pytest.raises(Overloaded) as refused:
            await store.accept(order(request=SearchRequest("q", "loud", frozenset())), limits)
        assert "loud" in refused.value.message
        assert (await store.accept(order(request=SearchRequest("q", "quiet", frozenset())), limits))[1]

    async def test_a_known_key_is_answered_though_the_queue_is_full(self, store: JobStore) -> None:
        limits = JobLimits(most=1, of_namespace=1)
        first, _ = await store.accept(order(idempotency_key="k"), limits)
        assert (await store.accept(order(idempotency_key="k"), limits))[0].id == first.id

    async def test_never_one_too_many_whoever_asks_at_once(self, store: JobStore, connect: Connect) -> None:
        other, limits = await connect(), JobLimits(most=7, of_namespace=7)
        try:
            calls = [(store, other)[n % 2].accept(order(), limits) for n in range(40)]
            found = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await other.aclose()
        assert Counter(type(result) for result in found) == {tuple: 7, Overloaded: 33}
        assert (await store.lengths())["retrieval"] == 7

    # ── claims ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_job_from_order_to_answer(self, store: JobStore) -> None:
        asked = order(webhook="https://example.org/hook")
        await store.accept(asked, ROOM)
        job = await one(store, "retrieval")
        assert (job.id, job.request, job.attempt, job.state) == (asked.id, asked.request, 1, JobState.RETRIEVING)
        assert await store.lengths() == {"retrieval": 1, "generation": 0}
        assert await store.retrieved(job.id, 1, b"{passages}", ttl_s=60.0, events=[NewEvent("passages", '{"n": 1}')])
        assert await store.lengths() == {"retrieval": 0, "generation": 1}
        assert await store.passages(job.id) == b"{passages}"
        job = await one(store, "generation")
        assert (job.attempt, job.state) == (2, JobState.GENERATING)
        assert await store.append(job.id, 2, [NewEvent("token", '{"text": "By "}'), NewEvent("token", '{"text": "x"}')])
        assert await store.finish(job.id, 2, done(webhook=b'{"type": "job.done"}'))
        job = await store.get(job.id)
        assert (job.state, job.queue, job.answer, job.events) == (JobState.DONE, None, b"By standing still.", 8)
        assert job.finished_at is not None
        names = ["queued", "retrieving", "passages", "generating", "token", "token", "token", "done"]
        assert await told(store, job.id) == names
        events = await store.events(job.id, after=2, most=3)
        assert [(e.id, e.data, e.attempt) for e in events] == [
            (3, '{"n": 1}', 1), (4, "{}", 2), (5, '{"text": "By "}', 2)
        ]  # fmt: skip
        assert await store.lengths() == {"retrieval": 0, "generation": 0}
        (delivery,) = await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=LEASE_S)
        assert (delivery.id, delivery.job, delivery.url) == (delivery_id(job.id, 0), job.id, asked.webhook)
        assert (delivery.body, delivery.attempt, delivery.principal) == (b'{"type": "job.done"}', 1, "ann")

    async def test_first_come_first_served(self, store: JobStore) -> None:
        ids = [(await store.accept(order(), ROOM))[0].id for _ in range(5)]
        assert [job.id for job in await store.claim("retrieval", most=3, lease_s=LEASE_S)] == ids[:3]
        assert [job.id for job in await store.claim("retrieval", most=3, lease_s=LEASE_S)] == ids[3:]
        assert await store.claim("retrieval", most=3, lease_s=LEASE_S) == []
        assert await store.claim("generation", most=3, lease_s=LEASE_S) == []

    async def test_workers_that_claim_side_by_side_share_the_jobs(self, store: JobStore, connect: Connect) -> None:
        other = await connect()
        try:
            ids = {(await store.accept(order(), ROOM))[0].id for _ in range(40)}
            claims = [(store, other)[n % 2].claim("retrieval", most=3, lease_s=LEASE_S) for n in range(30)]
            claimed = [job.id for jobs in await asyncio.gather(*claims) for job in jobs]
            while more := await store.claim("retrieval", most=3, lease_s=LEASE_S):
                claimed += [job.id for job in more]
        finally:
            await other.aclose()
        assert len(claimed) == 40
        assert set(claimed) == ids

    async def test_a_lease_that_ends_lets_another_have_it_and_fences_the_first(
        self, store: JobStore, pass_time: PassTime
    ) -> None:
        job = await generating(store, webhook="https://example.org/hook")
        assert await store.append(job.id, job.attempt, [NewEvent("token", '{"text": "a"}')])
        await pass_time(LEASE_S / 4)
        assert await store.renew(job.id, job.attempt, lease_s=LEASE_S / 8)
        assert await store.claim("generation", most=1, lease_s=LEASE_S) == []
        await pass_time(LEASE_S / 8 + 1)
        later = await one(store, "generation")
        assert (later.id, later.attempt) == (job.id, job.attempt + 1)
        assert not await store.renew(job.id, job.attempt, lease_s=LEASE_S)
        assert not await store.release(job.id, job.attempt, after_s=0.0)
        assert not await store.append(job.id, job.attempt, [NewEvent("token", '{"text": "b"}')])
        assert not await store.retrieved(job.id, job.attempt, b"late", ttl_s=60.0, events=[NewEvent("passages")])
        assert not await store.finish(job.id, job.attempt, done("late", webhook=b"late"))
        assert await store.passages(job.id) == b"passages"
        assert await store.append(later.id, later.attempt, [NewEvent("token", '{"text": "c"}')])
        assert await store.finish(later.id, later.attempt, done("in time", webhook=b"in time"))
        assert not await store.finish(later.id, later.attempt, done("twice", webhook=b"twice"))
        events = await store.events(job.id, after=4, most=100)
        assert [(e.name, e.attempt) for e in events] == [
            ("token", job.attempt), ("restarted", later.attempt), ("token", later.attempt), ("token", later.attempt),
            ("done", later.attempt),
        ]  # fmt: skip
        assert events[1].data == WORKER_LOST
        (delivery,) = await store.deliveries(principal=None, state=None, most=10)
        assert delivery.body == b"in time"

    async def test_no_restart_where_nothing_was_shown_or_it_was_taken_back(
        self, store: JobStore, pass_time: PassTime
    ) -> None:
        job = await generating(store)
        await pass_time(LEASE_S / 4)
        assert await store.release(job.id, job.attempt, after_s=0.0)
        job = await one(store, "generation")
        await store.append(job.id, job.attempt, [NewEvent("token"), NewEvent("restarted", '{"reason": "ungrounded"}')])
        assert await store.release(job.id, job.attempt, after_s=0.0)
        job = await one(store, "generation")
        assert await told(store, job.id) == ["queued", "retrieving", "passages", "generating", "token", "restarted"]
        await store.append(job.id, job.attempt, [NewEvent("token")])
        assert await store.release(job.id, job.attempt, after_s=0.0)
        await one(store, "generation")
        assert (await told(store, job.id))[-2:] == ["token", "restarted"]

    async def test_released_for_a_while(self, store: JobStore, pass_time: PassTime) -> None:
        await store.accept(order(), ROOM)
        job = await one(store, "retrieval")
        assert await store.release(job.id, job.attempt, after_s=60.0)
        assert await store.claim("retrieval", most=1, lease_s=LEASE_S) == []
        await pass_time(61.0)
        assert (await one(store, "retrieval")).attempt == 2
        assert await told(store, job.id) == ["queued", "retrieving"]

    async def test_passages_go_when_their_time_is_over(self, store: JobStore, pass_time: PassTime) -> None:
        job = await generating(store)
        assert await store.passages(job.id) == b"passages"
        await pass_time(LEASE_S + 1)
        assert await store.passages(job.id) is None

    # ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_past_its_deadline_a_job_is_only_ended(self, store: JobStore, pass_time: PassTime) -> None:
        waiting, _ = await store.accept(order(deadline_s=60.0), ROOM)
        leased = await generating(store, deadline_s=60.0)  # one of the two: whichever came first
        ids = {waiting.id, leased.id} | {
            job.id for job in await store.page(principal="ann", state=None, most=9, before=None)
        }
        await pass_time(61.0)
        assert await store.claim("retrieval", most=9, lease_s=LEASE_S) == []
        assert await store.claim("generation", most=9, lease_s=LEASE_S) == []
        overdue = await store.claim_overdue(most=9, lease_s=60.0)
        assert {job.id for job in overdue} == ids
        assert not await store.finish(leased.id, leased.attempt, done())
        assert await store.claim_overdue(most=9, lease_s=60.0) == []
        await pass_time(61.0)  # whoever claimed them has died: they are not lost
        overdue = await store.claim_overdue(most=9, lease_s=60.0)
        assert {job.id for job in overdue} == ids
        for job in overdue:
            assert await store.finish(job.id, job.attempt, failed())
        assert await store.claim_overdue(most=9, lease_s=60.0) == []
        assert await store.lengths() == {"retrieval": 0, "generation": 0}
        job = await store.get(waiting.id)
        assert (job.state, job.reason, job.detail, job.next_step) == (
            JobState.FAILED, "deadline", "It took too long.", "Ask again."
        )  # fmt: skip

    async def test_cancelled_whoever_has_it(self, store: JobStore) -> None:
        job = await generating(store, webhook="https://example.org/hook")
        found = await store.cancel(job.id, failed("cancelled", webhook=b"body"))
        assert (found.state, found.reason, found.queue) == (JobState.FAILED, "cancelled", None)
        assert not await store.append(job.id, job.attempt, [NewEvent("token")])
        assert not await store.renew(job.id, job.attempt, lease_s=1.0)
        assert not await store.finish(job.id, job.attempt, done())
        assert (await store.cancel(job.id, failed("cancelled", webhook=b"again"))).events == found.events
        assert (await told(store, job.id))[-1] == "failed"
        assert len(await store.deliveries(principal="ann", state="waiting", most=9)) == 1

    async def test_what_is_done_stays_done(self, store: JobStore) -> None:
        job = await generating(store)
        await store.finish(job.id, job.attempt, done())
        assert (await store.cancel(job.id, failed("cancelled"))).state is JobState.DONE
        with pytest.raises(Conflict):
            await store.retry(job.id, deadline_s=60.0, limits=ROOM)

    async def test_a_failed_job_begins_again_under_a_new_delivery(self, store: JobStore) -> None:
        job = await generating(store, webhook="https://example.org/hook")
        await store.append(job.id, job.attempt, [NewEvent("token")])
        await store.finish(job.id, job.attempt, failed(webhook=b"1"))
        again = await store.retry(job.id, deadline_s=120.0, limits=ROOM)
        assert (again.state, again.queue, again.retries, again.reason) == (JobState.QUEUED, "retrieval", 1, None)
        assert again.finished_at is None
        with pytest.raises(Conflict):
            await store.retry(job.id, deadline_s=60.0, limits=ROOM)
        later = await one(store, "retrieval")
        assert later.attempt > job.attempt
        await store.retrieved(later.id, later.attempt, b"p", ttl_s=60.0, events=[NewEvent("passages")])
        later = await one(store, "generation")
        assert await store.finish(later.id, later.attempt, done(webhook=b"2"))
        assert (await told(store, job.id))[5:] == [
            "failed", "queued", "retrieving", "passages", "generating", "token", "done"
        ]  # fmt: skip
        ids = {d.id for d in await store.deliveries(principal=None, state=None, most=9)}
        assert ids == {delivery_id(job.id, 0), delivery_id(job.id, 1)}

    async def test_a_retry_needs_a_place_in_the_queue(self, store: JobStore) -> None:
        job = await generating(store)
        await store.finish(job.id, job.attempt, failed())
        await store.accept(order(), ROOM)
        with pytest.raises(Overloaded):
            await store.retry(job.id, deadline_s=60.0, limits=JobLimits(most=1, of_namespace=1))

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_lists_are_newest_first_and_go_on(self, store: JobStore) -> None:
        ids = [(await store.accept(order(), ROOM))[0].id for _ in range(5)]
        await store.accept(order(principal="bob"), ROOM)
        page = await store.page(principal="ann", state=None, most=3, before=None)
        assert [job.id for job in page] == ids[:1:-1]
        page = await store.page(principal="ann", state=None, most=3, before=page[-1].id)
        assert [job.id for job in page] == ids[1::-1]
        assert len(await store.page(principal=None, state=None, most=99, before=None)) == 6
        await one(store, "retrieval")
        found = await store.page(principal="ann", state=JobState.RETRIEVING, most=9, before=None)
        assert [job.id for job in found] == ids[:1]

    async def test_whoever_watches_hears_of_every_process(self, store: JobStore, connect: Connect) -> None:
        heard: list[str | None] = []
        moved = asyncio.Event()

        def told(id: str | None) -> None:
            heard.append(id)
            moved.set()

        other = await connect()
        try:
            store.watch(told)
            for teller in (store,) if self.ALONE else (store, other):
                job, _ = await teller.accept(order(), ROOM)
                async with asyncio.timeout(WITHIN_S):
                    while job.id not in heard:
                        await moved.wait()
                        moved.clear()
        finally:
            await other.aclose()

    async def test_the_newest_event_of_many(self, store: JobStore) -> None:
        first, _ = await store.accept(order(), ROOM)
        second = await generating(store)
        known = await store.latest([first.id, second.id, "none"])
        assert known == {id: (await store.get(id)).events for id in (first.id, second.id)}

    async def test_what_is_old_is_forgotten(self, store: JobStore, pass_time: PassTime) -> None:
        job = await generating(store, webhook="https://example.org/hook")
        await store.finish(job.id, job.attempt, done(webhook=b"body"))
        open_one, _ = await store.accept(order(deadline_s=1e6), ROOM)
        assert await store.upkeep(events_s=100.0, jobs_s=1_000.0) == 0
        await pass_time(101.0)
        assert await store.upkeep(events_s=100.0, jobs_s=1_000.0) == 0
        with pytest.raises(Gone):
            await store.events(job.id, after=0, most=10)
        assert (await store.get(job.id)).answer == b"By standing still."
        await pass_time(1_000.0)
        assert await store.upkeep(events_s=100.0, jobs_s=1_000.0) == 1
        for call in (store.get(job.id), store.events(job.id, after=0, most=10)):
            with pytest.raises(NotFound):
                await call
        assert await told(store, open_one.id) == ["queued"]
        (delivery,) = await store.deliveries(principal=None, state=None, most=9)
        assert delivery.state == "waiting"  # nobody has got it yet

    async def test_a_duty_has_one_holder(self, store: JobStore, connect: Connect, pass_time: PassTime) -> None:
        other = await connect()
        try:
            asked = [(store, other)[n % 2].hold("upkeep", holder=f"p{n}", lease_s=60.0) for n in range(10)]
            granted = await asyncio.gather(*asked)
            assert sum(granted) == 1
            mine = f"p{granted.index(True)}"
            assert await other.hold("upkeep", holder=mine, lease_s=60.0)  # again, and for longer
            await pass_time(59.0)
            assert await store.hold("upkeep", holder=mine, lease_s=60.0)
            await pass_time(59.0)
            assert not await store.hold("upkeep", holder="else", lease_s=60.0)
            assert await store.hold("another duty", holder="else", lease_s=60.0)
            await pass_time(2.0)
            assert await other.hold("upkeep", holder="else", lease_s=60.0)
            assert not await store.hold("upkeep", holder=mine, lease_s=60.0)
        finally:
            await other.aclose()

    # ── the outbox ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def ended(self, store: JobStore, **given: Any) -> Job:
        job = await generating(store, **({"webhook": "https://example.org/hook"} | given))
        assert await store.finish(job.id, job.attempt, done(webhook=b"body"))
        return job

    async def test_a_delivery_is_one_claimants_until_its_lease_ends(self, store: JobStore, pass_time: PassTime) -> None:
        await self.ended(store)
        (first,) = await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0)
        assert await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0) == []
        await pass_time(61.0)
        (second,) = await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0)
        assert (second.id, second.body, second.attempt) == (first.id, first.body, 2)
        assert not await store.delivered(first.id, 1, status=200)
        assert not await store.put_off_delivery(first.id, 1, after_s=1.0, status=500, error="late")
        assert not await store.bury_delivery(first.id, 1, status=500, error="late")
        assert await store.delivered(second.id, 2, status=204)
        (kept,) = await store.deliveries(principal="ann", state="delivered", most=10)
        assert (kept.status, kept.state, kept.error) == (204, "delivered", "")
        await pass_time(61.0)
        assert await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0) == []

    async def test_put_off_buried_and_replayed(self, store: JobStore, pass_time: PassTime) -> None:
        await self.ended(store)
        (delivery,) = await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0)
        assert await store.put_off_delivery(delivery.id, 1, after_s=600.0, status=503, error="busy")
        await pass_time(61.0)
        assert await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0) == []
        await pass_time(600.0)
        (delivery,) = await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0)
        assert delivery.attempt == 2
        assert await store.bury_delivery(delivery.id, 2, status=None, error="no answer")
        await pass_time(600.0)
        assert await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0) == []
        (dead,) = await store.deliveries(principal=None, state="dead", most=10)
        assert (dead.status, dead.error) == (None, "no answer")
        with pytest.raises(NotFound):
            await store.replay_delivery(delivery.id, principal="bob")
        with pytest.raises(NotFound):
            await store.replay_delivery("none", principal=None)
        again = await store.replay_delivery(delivery.id, principal="ann")
        assert (again.state, again.id, again.body) == ("waiting", delivery.id, b"body")
        assert (delivery.spent, again.spent) == (0, 2)
        (delivery,) = await store.claim_deliveries(most=10, of_host=10, in_flight={}, lease_s=60.0)
        assert (delivery.attempt, delivery.spent) == (3, 2)

    async def test_deliveries_are_listed_newest_first_and_by_owner(self, store: JobStore, pass_time: PassTime) -> None:
        first = await self.ended(store)
        await pass_time(1.0)
        second = await self.ended(store)
        await self.ended(store, principal="bob")
        found = await store.deliveries(principal="ann", state=None, most=10)
        assert [delivery.job for delivery in found] == [second.id, first.id]
        assert len(await store.deliveries(principal=None, state="waiting", most=10)) == 3
        assert len(await store.deliveries(principal=None, state=None, most=2)) == 2

    async def test_a_host_gets_so_many_at_a_time_and_holds_up_no_other(self, store: JobStore) -> None:
        for url in (
            "https://slow.example/a",
            "https://SLOW.example/b",
            "https://slow.example/c?x",
            "https://other.example",
        ):
            await self.ended(store, webhook=url)
        first = await store.claim_deliveries(most=10, of_host=2, in_flight={}, lease_s=60.0)
        assert sorted(one.host for one in first) == ["other.example", "slow.example", "slow.example"]
        held = {"slow.example": 2, "other.example": 1}
        assert await store.claim_deliveries(most=10, of_host=2, in_flight=held, lease_s=60.0) == []
        for n in range(20):
            await self.ended(store, webhook=f"https://slow.example/{n}")
        await self.ended(store, webhook="https://other.example/")
        await self.ended(store, webhook="https://third.example:8443/")
        second = await store.claim_deliveries(most=2, of_host=2, in_flight=held, lease_s=60.0)
        assert [one.host for one in second] == ["other.example", "third.example:8443"]
        third = await store.claim_deliveries(most=10, of_host=2, in_flight={"slow.example": 1}, lease_s=60.0)
        assert [(one.host, one.url) for one in third] == [("slow.example", "https://slow.example/c?x")]

    async def test_no_webhook_no_delivery(self, store: JobStore) -> None:
        await self.ended(store, webhook=None)
        assert await store.deliveries(principal=None, state=None, most=10) == []

    async def test_closing_twice(self, connect: Connect) -> None:
        store = await connect()
        await store.aclose()
        await store.aclose()
