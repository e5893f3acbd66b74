"""The job path by hand, stage by stage: what is told, what is kept, and what a lost or late worker changes (nothing)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from ragline.build import build
from ragline.errors import Conflict, InvalidRequest, NotFound, Overloaded
from ragline.jobs import Lost, Question
from ragline.serialisation import load_answer
from ragline.settings import JobsSettings, Settings, WebhooksSettings
from ragline.system import System
from ragline.types import Caller, Job, JobState
from tests.house import House
from tests.job_house import ANN, ANSWER, LEASE_S, JobHouse, Scripted, says

HR = Caller("ann", "read", None, frozenset({"hr"}))


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    settings = JobsSettings(max_waiting=4, namespace_share=1.0, deadline_s=600.0)
    webhooks = WebhooksSettings.model_validate({"allow_networks": ["127.0.0.0/8", "::1/128"]})
    system = await build(Settings(data_dir=tmp_path, jobs=settings, webhooks=webhooks))
    yield system
    await system.aclose()


@pytest.fixture
async def house(system: System) -> JobHouse:
    house = JobHouse(system)
    await house.fill()
    return house


def _expire_leases(house: JobHouse) -> None:
    _change(house, "UPDATE jobs SET lease_until = 0")


def _change(house: JobHouse, statement: str) -> None:
    """Past the store, as time would."""
    with sqlite3.connect(house.system.settings.data_dir / "jobs.sqlite") as connection:
        connection.execute(statement)
    connection.close()


async def test_a_question_becomes_a_cited_answer_and_every_step_is_told(house: JobHouse) -> None:
    says(house.system, Scripted())
    job = await house.ask(webhook="https://localhost/hook")
    assert job.state is JobState.QUEUED
    assert (await house.retrieve()).state is JobState.GENERATING
    job = await house.generate()
    assert (job.state, job.queue) == (JobState.DONE, None)
    assert job.answer is not None
    answer = load_answer(job.answer)
    assert answer.text == "".join(ANSWER)
    assert answer.citations == (1,)
    events = await house.store.events(job.id, after=0, most=100)
    names = [event.name for event in events]
    assert list(dict.fromkeys(names)) == ["queued", "retrieving", "passages", "generating", "token", "done"]
    shown = "".join(json.loads(event.data)["text"] for event in events if event.name == "token")
    assert shown == answer.text
    assert json.loads(events[-1].data)["answer"] == answer.text
    (delivery,) = await house.store.claim_deliveries(most=9, of_host=9, in_flight={}, lease_s=LEASE_S)
    body = json.loads(delivery.body)
    assert (body["type"], body["data"]["job_id"]) == ("job.done", job.id)
    assert body["data"]["answer"]["answer"] == answer.text
    assert delivery.id == f"msg_{job.id}"


async def test_the_event_with_the_passages_says_where_they_are_from_and_not_what_they_say(house: JobHouse) -> None:
    job = await house.ask()
    await house.retrieve()
    (event,) = [one for one in await house.store.events(job.id, after=0, most=9) if one.name == "passages"]
    assert json.loads(event.data)["passages"][0]["uri"] == "returns.md"
    assert "receipt" not in event.data


async def test_what_cannot_be_served_is_refused_before_it_is_a_job(house: JobHouse) -> None:
    for query, error in (("", InvalidRequest), ("x" * 9_000, InvalidRequest)):
        with pytest.raises(error):
            await house.ask(query)
    with pytest.raises(InvalidRequest):
        await house.ask(top_k=0)
    request = replace((await house.ask()).request, namespace="none")
    with pytest.raises(NotFound):
        await house.system.jobs.accept(ANN, Question(request))
    with pytest.raises(InvalidRequest):
        await house.system.jobs.accept(ANN, Question(replace(request, namespace="default", filters={"no": 1})))
    assert await house.store.lengths() == {"retrieval": 1, "generation": 0}


async def test_groups_revoked_between_the_stages_do_not_reach_the_caller(house: JobHouse) -> None:
    """The passages wait in the store; whoever generates asks the guard again."""
    generator = Scripted(["The documents do not answer this question."])
    says(house.system, generator)
    await House(house.system).accept(
        "secret.md", "Unopened item returns are secretly taken within 99 days.", groups=HR.groups
    )
    await House(house.system).work()
    job = await house.ask(caller=HR)
    await house.retrieve()
    data = await house.store.passages(job.id)
    assert data is not None
    assert b"99 days" in data
    await House(house.system).accept(
        "secret.md", "Unopened item returns are secretly taken within 99 days.", groups=frozenset({"board"})
    )
    job = await house.generate()
    assert job.answer is not None
    assert b"99 days" not in job.answer
    assert "99 days" not in generator.asked[0].user
    assert "secret.md" not in job.answer.decode()
    for event in await house.store.events(job.id, after=0, most=100):
        assert "99 days" not in event.data
    assert (await house.names(job.id)).count("passages") == 2


async def test_a_document_that_changed_between_the_stages_is_retrieved_anew(house: JobHouse) -> None:
    generator = Scripted()
    says(house.system, generator)
    await house.ask()
    await house.retrieve()
    await House(house.system).accept("returns.md", "# Returns\n\nCustomers may return an unopened item within 14 days.")
    await House(house.system).work()
    await house.generate()
    assert "14 days" in generator.asked[0].user
    assert "30 days. A receipt" not in generator.asked[0].user


async def test_passages_that_are_gone_are_retrieved_again(house: JobHouse) -> None:
    says(house.system, Scripted())
    job = await house.ask()
    await house.retrieve()
    _change(house, "DELETE FROM job_passages")
    assert (await house.generate()).state is JobState.DONE
    assert (await house.names(job.id)).count("passages") == 2


async def test_passages_of_a_version_that_wrote_them_otherwise_are_retrieved_again(house: JobHouse) -> None:
    says(house.system, Scripted())
    await house.ask()
    await house.retrieve()
    _change(house, "UPDATE job_passages SET data = '{\"other\": 1}'")
    assert (await house.generate()).state is JobState.DONE


async def test_passages_outlast_the_deadline(house: JobHouse) -> None:
    job = await house.ask(deadline_s=100.0)
    await house.retrieve()
    path = house.system.settings.data_dir / "jobs.sqlite"
    with sqlite3.connect(path) as connection:
        ((until,),) = connection.execute("SELECT until FROM job_passages").fetchall()
    connection.close()
    assert until > job.deadline_at


async def test_two_workers_one_late_leave_one_answer_and_no_mixed_tokens(house: JobHouse) -> None:
    """The first is at it when its lease ends. What it says after that is refused, and it stops its generator."""
    steps = asyncio.Semaphore(1)
    slow, fast = Scripted(["Slow ", "words ", "that ", "come late [1]."], steps=steps), Scripted()
    says(house.system, slow)
    job = await house.ask()
    await house.retrieve()
    first = await house.claim("generation")
    working = asyncio.create_task(house.system.jobs.generate(first))
    await slow.said.wait()
    while "token" not in await house.names(job.id):
        await asyncio.sleep(0)
    _expire_leases(house)
    says(house.system, fast)
    second = await house.claim("generation")
    for _ in range(3):
        steps.release()
    with pytest.raises(Lost):
        await working
    assert slow.closed == 1
    await house.system.jobs.generate(second)
    events = await house.store.events(job.id, after=0, most=100)
    names = [event.name for event in events]
    again = names.index("restarted")
    assert all(event.attempt <= first.attempt for event in events[:again])
    assert all(event.attempt == second.attempt for event in events[again:])
    assert "".join(json.loads(e.data)["text"] for e in events[again:] if e.name == "token") == "".join(ANSWER)
    assert names.count("done") == 1
    assert names[-1] == "done"


async def test_cancelled_while_generating_stops_the_generator(house: JobHouse) -> None:
    steps = asyncio.Semaphore(1)
    generator = Scripted(steps=steps)
    says(house.system, generator)
    job = await house.ask()
    await house.retrieve()
    working = asyncio.create_task(house.system.jobs.generate(await house.claim("generation")))
    await generator.said.wait()
    while "token" not in await house.names(job.id):
        await asyncio.sleep(0)
    found = await house.system.jobs.cancel(ANN, job.id)
    assert (found.state, found.reason) == (JobState.FAILED, "cancelled")
    steps.release()  # the next token is refused
    with pytest.raises(Lost):
        await working
    assert generator.closed == 1
    assert len(generator.asked) == 1
    assert (await house.names(job.id))[-1] == "failed"
    again = await house.system.jobs.cancel(ANN, job.id)
    assert again.events == (await house.store.get(job.id)).events == found.events


async def test_tokens_that_come_together_are_told_together(house: JobHouse) -> None:
    """Never a commit for each token."""
    pieces = [f"word{n} " for n in range(300)] + ["within 30 days [1]."]
    says(house.system, Scripted(pieces))
    job = await house.ask()
    await house.retrieve()
    await house.generate()
    assert (await house.names(job.id)).count("token") < 30
    events = await house.store.events(job.id, after=0, most=100)
    shown = "".join(json.loads(event.data)["text"] for event in events if event.name == "token")
    assert "word299" in shown


async def test_a_generator_that_does_not_hold_to_the_passages_is_taken_back(house: JobHouse) -> None:
    says(house.system, Scripted(["Elephants fly to the moon every second year without a ticket [1]."]))
    job = await house.ask()
    await house.retrieve()
    job = await house.generate()
    names = await house.names(job.id)
    assert "restarted" in names
    assert job.answer is not None
    assert "ungrounded" in load_answer(job.answer).degraded


@pytest.mark.parametrize("where", ["retrieval", "generation"])
@pytest.mark.parametrize("leased", [False, True], ids=["waiting", "leased"])
async def test_past_its_deadline_a_job_fails_in_words(house: JobHouse, where: str, leased: bool) -> None:
    job = await house.ask(webhook="https://localhost/hook")
    if where == "generation":
        await house.retrieve()
    claimed = await house.claim(where) if leased else None  # type: ignore[arg-type]
    _change(house, "UPDATE jobs SET deadline_at = 1")
    await house.system.job_upkeep.round()
    job = await house.store.get(job.id)
    assert (job.state, job.reason) == (JobState.FAILED, "deadline")
    assert ("its passages" if where == "retrieval" else "its answer") in job.detail
    assert "deadline_s" in job.next_step
    assert (await house.names(job.id))[-1] == "failed"
    (delivery,) = await house.store.claim_deliveries(most=9, of_host=9, in_flight={}, lease_s=LEASE_S)
    assert json.loads(delivery.body)["type"] == "job.failed"
    if claimed:
        with pytest.raises(Lost):
            await house.system.jobs.fail(claimed, "late", "Late.", "None.")


async def test_a_failed_job_is_begun_again_by_its_owner(house: JobHouse) -> None:
    says(house.system, Scripted())
    job = await house.ask()
    with pytest.raises(Conflict):
        await house.system.jobs.retry(ANN, job.id, deadline_s=None)
    await house.system.jobs.cancel(ANN, job.id)
    with pytest.raises(NotFound):
        await house.system.jobs.retry(replace(ANN, principal="bob"), job.id, deadline_s=None)
    again = await house.system.jobs.retry(ANN, job.id, deadline_s=60.0)
    assert again.state is JobState.QUEUED
    await house.retrieve()
    assert (await house.generate()).state is JobState.DONE


async def test_only_the_owner_reads_a_job_and_not_with_a_key_that_may_read_less(house: JobHouse) -> None:
    job = await house.ask(caller=HR)
    jobs = house.system.jobs
    assert (await jobs.get(HR, job.id)).id == job.id
    assert (await jobs.get(replace(HR, groups=frozenset({"hr", "ops"})), job.id)).id == job.id
    strangers = [
        replace(HR, principal="bob"), ANN, replace(HR, namespaces=frozenset({"other"})),
        Caller("root", "admin", None, frozenset({"hr"})),
    ]  # fmt: skip
    words = set()
    for stranger in strangers:
        with pytest.raises(NotFound) as refused:
            await jobs.get(stranger, job.id)
        words.add(refused.value.message.replace(job.id, "ID"))
        assert (await jobs.page(stranger, state=None, most=9, before=None))[0] == []
        with pytest.raises(NotFound):
            await jobs.cancel(stranger, job.id)
    unknown = "0" * 32
    with pytest.raises(NotFound) as refused:
        await jobs.get(HR, unknown)
    assert words == {refused.value.message.replace(unknown, "ID")}
    for odd in ("", "x", "\x00", "../../etc", "9" * 10_000):
        with pytest.raises(NotFound):
            await jobs.get(HR, odd)


async def test_one_key_with_other_groups_is_another_order(house: JobHouse) -> None:
    """Else a key that may read less would be pointed to an answer that it must not see."""
    await house.ask(caller=HR, idempotency_key="k")
    with pytest.raises(InvalidRequest) as refused:
        await house.ask(caller=ANN, idempotency_key="k")
    assert refused.value.field == "Idempotency-Key"


async def test_one_key_fifty_times_at_once_is_one_job_and_one_call_of_the_model(house: JobHouse) -> None:
    generator = Scripted()
    says(house.system, generator)
    found = await asyncio.gather(*(house.ask(idempotency_key="k") for _ in range(50)))
    assert len({job.id for job in found}) == 1
    await house.retrieve()
    await house.generate()
    assert await house.store.claim("retrieval", most=99, lease_s=LEASE_S) == []
    assert len(generator.asked) == 1
    assert (await house.ask(idempotency_key="k")).state is JobState.DONE


async def test_generation_filled_refuses_and_every_accepted_job_finishes(house: JobHouse) -> None:
    says(house.system, Scripted())
    ids = [(await house.ask()).id for _ in range(4)]
    for _ in range(4):
        await house.retrieve()
    assert await house.store.lengths() == {"retrieval": 0, "generation": 4}
    with pytest.raises(Overloaded) as refused:
        await house.ask()
    assert refused.value.retry_after_s == 60.0  # nothing has left the queue yet
    await house.generate()
    assert (await house.ask()).state is JobState.QUEUED  # a place came free
    await house.retrieve()
    with pytest.raises(Overloaded) as refused:
        await house.ask()
    assert refused.value.retry_after_s == pytest.approx(60.0)  # one in the last minute: one place a minute
    for _ in range(4):
        await house.generate()
    for id in ids:
        assert (await house.store.get(id)).state is JobState.DONE


async def test_no_text_of_documents_or_questions_is_logged(house: JobHouse) -> None:
    says(house.system, Scripted(["Elephants fly to the moon [1]."]))
    with structlog.testing.capture_logs() as lines:
        await house.ask("How many days do elephants have to return an unopened item?")
        await house.retrieve()
        await house.generate()
        await house.ask()
        _change(house, "UPDATE jobs SET deadline_at = 1 WHERE queue IS NOT NULL")
        await house.system.job_upkeep.round()
    assert lines
    said = json.dumps(lines, default=str)
    for text in ("elephants", "receipt", "unopened", "moon"):
        assert text not in said


async def test_a_clock_set_back_leaves_no_job_waiting_for_that_time(house: JobHouse) -> None:
    says(house.system, Scripted())
    job = await house.ask(deadline_s=100.0)
    _change(
        house, "UPDATE jobs SET created_at = created_at + 86400, deadline_at = deadline_at + 86400, lease_until = 9e9"
    )
    await house.store.upkeep(events_s=1.0, jobs_s=1.0)
    await house.retrieve()
    job = await house.generate()
    assert job.state is JobState.DONE
    assert job.deadline_at - job.created_at == pytest.approx(100.0)
    assert job.deadline_at < house.system.clock.now() + 101.0


async def test_a_generation_that_is_cancelled_leaves_nothing_running(house: JobHouse) -> None:
    generator = Scripted(steps=asyncio.Semaphore(1))
    says(house.system, generator)
    job = await house.ask()
    await house.retrieve()
    before = asyncio.all_tasks()
    working = asyncio.create_task(house.system.jobs.generate(await house.claim("generation")))
    await generator.said.wait()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    assert generator.closed == 1
    left: set[Any] = {task for task in asyncio.all_tasks() - before if not task.done()}
    await asyncio.gather(*left, return_exceptions=True)  # a commit that was under way
    assert (await house.store.get(job.id)).state is JobState.GENERATING


async def test_who_asks_for_one_job_together_shares_a_look_that_is_not_older_than_the_question(
    house: JobHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await house.ask()
    began, go_on = asyncio.Event(), asyncio.Event()
    real, looks = house.store.get, 0

    async def slow(id: str) -> Job:
        nonlocal looks
        looks += 1
        found = await real(id)
        began.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(house.store, "get", slow)
    early = asyncio.create_task(house.system.jobs.get(ANN, job.id))
    await began.wait()  # it has read, and does not know it yet
    await house.claim("retrieval")
    late = [asyncio.create_task(house.system.jobs.get(ANN, job.id)) for _ in range(50)]
    go_on.set()
    assert (await early).state is JobState.QUEUED
    assert {(await one).state for one in late} == {JobState.RETRIEVING}
    assert looks == 2


async def test_a_look_that_fails_is_told_to_those_who_asked_for_that_job_alone(house: JobHouse) -> None:
    job = await house.ask()
    looks = house.system.jobs.get(ANN, job.id), house.system.jobs.get(ANN, "0" * 32)
    found, refused = await asyncio.gather(*looks, return_exceptions=True)
    assert isinstance(found, Job)
    assert isinstance(refused, NotFound)
