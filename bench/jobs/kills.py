"""Generate workers killed in the middle of their streams, while clients follow over two replicas and change between them, and a
receiver of webhooks verifies what it gets.

Jobs and registry are in one PostgreSQL; two gateways stand before it, and one worker at a time generates, until it is killed by
SIGKILL once tokens of its own attempt were shown. What must hold in the end is counted, not timed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from bench.jobs.child import PIECES
from ragline.api.app import gateway
from ragline.build import build
from ragline.cli.server import listen, serving
from ragline.cli.up import address
from ragline.protocols import JobStore
from ragline.settings import HttpSettings, JobsSettings, Settings, WebhooksSettings
from ragline.system import System
from ragline.types import JobEvent, Upload
from tests.receiving import SECRET, Answer, Receiver, receiving

TOKEN = "kills"
QUESTION = {
    "query": "How many days to return an unopened item?",
    "deadline_s": 3600,
}
WEBHOOKS = WebhooksSettings.model_validate(
    {"secrets": [SECRET], "allow_http": True, "allow_networks": ["127.0.0.0/8"], "first_backoff_s": 0.01}
)
AT_ONCE = 2
"""Jobs in generation, as many as a worker takes."""

WITHIN_S = 300.0


@dataclass(slots=True)
class Outcome:
    """`wrong`: what did not hold, in words; nothing must stand there."""

    kills: int = 0
    jobs: int = 0
    restarts: int = 0
    reconnects: int = 0
    webhooks: int = 0
    wrong: list[str] = field(default_factory=list)


async def run(url: str, folder: Path, *, kills: int, seed: int = 1) -> Outcome:
    """`url`: of an empty database. Returns once as many kills have hit a stream, and every job has ended."""
    outcome, chance = Outcome(), random.Random(seed)
    async with (
        receiving(Answer(500), Answer(204)) as receiver,
        _gateways(url, folder) as (systems, urls),
        httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=WITHIN_S, trust_env=False) as client,
    ):
        store = systems[0].jobs.store
        following: dict[str, asyncio.Task[str]] = {}
        dead: set[tuple[str, int]] = set()  # attempts whose worker was killed
        while outcome.kills < kills:
            async with _worker(url) as process:
                while (await store.lengths())["generation"] + (await store.lengths())["retrieval"] < AT_ONCE:
                    accepted = await client.post(f"{urls[0]}/v1/queries", json=QUESTION | {"webhook": receiver.url()})
                    accepted.raise_for_status()
                    id = accepted.json()["job_id"]
                    following[id] = asyncio.create_task(_followed(client, urls, id, chance, outcome))
                await _in_the_middle(systems[0], list(following), dead, chance)
                process.send_signal(signal.SIGKILL)
                outcome.kills += 1
            dead |= {(id, (await store.get(id)).attempt) for id in list(following)[-2 * AT_ONCE :]}
        async with _worker(url) as process:
            async with asyncio.timeout(WITHIN_S):
                seen = dict(zip(following, await asyncio.gather(*following.values()), strict=True))
            process.send_signal(signal.SIGTERM)
        outcome.wrong += await _told(store, receiver, list(seen))
        outcome.jobs, outcome.webhooks = len(seen), len(receiver.got)
        for id, text in seen.items():
            events = await store.events(id, after=0, most=100_000)
            outcome.restarts += sum(event.name == "restarted" for event in events)
            whole = (await client.get(f"{urls[1]}/v1/jobs/{id}/events")).text
            outcome.wrong += [f"{id}: {what}" for what in _wrong(events)]
            if text != whole:
                outcome.wrong.append(f"{id}: its client got other bytes than a new one does")
    return outcome


async def _told(store: JobStore, receiver: Receiver, ids: list[str]) -> list[str]:
    """What is wrong with the webhooks: one id a job, verified, with the answer that its events end with."""
    wanted = {f"msg_{id}" for id in ids}
    async with asyncio.timeout(WITHIN_S):
        while len(await store.deliveries(principal=None, state="delivered", most=10_000)) < len(wanted):
            await asyncio.sleep(0.05)
    wrong = [f"{got.id}: nobody asked for it" for got in receiver.got if got.id not in wanted]
    bodies: dict[str, set[bytes]] = {}
    for got in receiver.got:
        bodies.setdefault(got.id, set()).add(got.body)
        event = got.verified()  # raises
        if f"msg_{event['data']['job_id']}" != got.id or event["type"] != "job.done":
            wrong.append(f"{got.id}: it tells of {event['type']} of {event['data']['job_id']}")
    return wrong + [f"{id}: it was told {len(some)} endings" for id, some in bodies.items() if len(some) != 1]


def _wrong(events: list[JobEvent]) -> list[str]:
    """Of one job that has ended."""
    names = [event.name for event in events]
    wrong = []
    if [event.id for event in events] != list(range(1, len(events) + 1)):
        wrong.append("its events have gaps")
    if names.count("done") != 1 or names[-1] != "done" or "failed" in names:
        return [*wrong, f"it ended with {names[-3:]}: {events[-1].data}"]
    for tells, group in itertools.groupby(events, lambda event: event.name == "token"):
        if tells and len({event.attempt for event in group}) != 1:
            wrong.append("tokens of two attempts stand together")
    last = len(names) - 1 - names[::-1].index("restarted") if "restarted" in names else 0
    shown = "".join(json.loads(event.data)["text"] for event in events[last:] if event.name == "token")
    if shown.strip() != json.loads(events[-1].data)["answer"] or shown.strip() != "".join(PIECES).strip():
        wrong.append("the tokens that count are not the answer")
    return wrong


async def _followed(
    client: httpx.AsyncClient, urls: list[str], id: str, chance: random.Random, outcome: Outcome
) -> str:  # fmt: skip
    """What one client has got in the end, over as many connections to either replica as it took; whole events only."""
    got, last, turn = "", 0, 0
    async with asyncio.timeout(WITHIN_S + 3600):
        while True:
            headers = {"Last-Event-ID": str(last)} if last else {}
            leaves_after, held = chance.randint(1, 30), ""
            async with client.stream("GET", f"{urls[turn % 2]}/v1/jobs/{id}/events", headers=headers) as response:
                if response.status_code == 204:
                    return got
                response.raise_for_status()
                async for text in response.aiter_text():
                    *blocks, held = (held + text).split("\n\n")
                    for block in (one for one in blocks if not one.startswith(":")):
                        got += block + "\n\n"
                        last = int(block.split("\n", 1)[0].removeprefix("id: "))
                        leaves_after -= 1
                    if leaves_after <= 0:
                        break  # maybe in the middle of an event: that one is got again, whole
            turn += 1
            outcome.reconnects += 1


async def _in_the_middle(system: System, ids: list[str], dead: set[tuple[str, int]], chance: random.Random) -> None:
    """Return while a stream is under way: an attempt of the worker that lives has shown tokens, some more or fewer."""
    at_least = chance.randint(1, 18)
    async with asyncio.timeout(WITHIN_S):
        while True:
            for id in ids[-2 * AT_ONCE :]:
                job = await system.jobs.store.get(id)
                if job.queue != "generation" or (id, job.attempt) in dead:
                    continue
                events = await system.jobs.store.events(id, after=max(0, job.events - 20), most=100)
                mine = [one for one in events if one.name == "token" and one.attempt == job.attempt]
                if len(mine) >= at_least:
                    return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def _gateways(url: str, folder: Path) -> AsyncIterator[tuple[list[System], list[str]]]:
    """Two replicas over one database; the first retrieves and tells of ends as well, from the stores in its folder."""
    async with AsyncExitStack() as stack:
        systems, urls = [], []
        for n in range(2):
            settings = Settings(
                data_dir=folder / f"replica-{n}", registry=url, blobs=str(folder / "blobs"), jobs=JobsSettings(url=url),
                webhooks=WEBHOOKS,
            )  # fmt: skip
            system = await build(settings)
            stack.push_async_callback(system.aclose)
            systems.append(system)
            if n == 0:
                await _filled(system)
            listener = stack.enter_context(listen("127.0.0.1", 0))
            work = (lambda system=system: system.work(["retrieve", "webhooks"])) if n == 0 else None
            app = gateway(system, owner_token=TOKEN)
            await stack.enter_async_context(serving(app, listener, HttpSettings(), work=work))
            urls.append(address(listener))
        yield systems, urls


async def _filled(system: System) -> None:
    text = b"# Returns\n\nCustomers may return an unopened item within 30 days. A receipt is needed."
    await system.ingest.accept(await system.namespaces.get("default"), Upload("returns.md", text))
    while claimed := await system.claims.claim(most=10, lease_s=600.0):
        for document in claimed:
            await system.ingest.process(document)


@asynccontextmanager
async def _worker(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """One process that generates; it has ended when the block has."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.jobs.child", url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout
        assert await process.stdout.readline() == b"ready\n", "the worker did not start"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
