"""Load on a whole system, served on a port, whose answers a played language model writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from ragline.api.app import gateway
from ragline.build import build
from ragline.chaos.llm import Behaviour, Llm
from ragline.chaos.load import Load
from ragline.chaos.queries import queries_of
from ragline.chaos.samples import Kind
from ragline.chaos.target import CouldNotRun, Target, documents_path
from ragline.cli.server import listen, serving
from ragline.settings import GeneratorSettings, Settings
from ragline.system import System

OWNER = "owner-token"
TEXTS = {
    "Shipping": "Shipping to Berlin takes three days. Parcels leave at noon.",
    "Returns": "Returns are free within thirty days. Keep the receipt.",
    "Warranty": "The warranty covers two years. Batteries are covered for six months.",
}


@dataclass(frozen=True)
class Served:
    url: str
    llm: Llm
    system: System

    def load(self, **options: Any) -> Load:
        given: dict[str, Any] = {"queries": list(TEXTS.values()), "rate": 30.0, **options}
        return Load(self.url, OWNER, **given)

    async def namespaces(self) -> list[str]:
        return [one.name for one in await self.system.namespaces.all()]


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with Llm().serving() as llm:
        generators = (GeneratorSettings(url=llm.url, model="played"),)
        settings = Settings(data_dir=tmp_path_factory.mktemp("data"), generators=generators)
        system = await build(settings)
        try:
            with listen("127.0.0.1", 0) as listener:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                async with serving(gateway(system, owner_token=OWNER), listener, settings.http, work=system.work):
                    await _fill(url)
                    yield Served(url, llm, system)
        finally:
            await system.aclose()


async def _fill(url: str) -> None:
    async with Target(url, OWNER, timeout_s=120).session() as http:
        for title, text in TEXTS.items():
            form = aiohttp.FormData({"title": title})
            form.add_field("file", text.encode(), filename=f"{title}.txt")
            async with http.post(url + documents_path("default"), data=form, params={"wait": "true"}) as response:
                assert response.status == 200, await response.text()


async def test_searches_answers_and_writes_are_all_answered_and_nothing_stays(served: Served) -> None:
    load = served.load(writes=0.3, answers=0.2)
    await load.check()
    samples = await load.run(3)
    assert samples.failed == 0, samples.outcomes()
    assert {one.kind for one in samples} == set(Kind)
    assert samples.of(Kind.ANSWER).degraded() == {}  # the played model's answers hold: nobody else was asked
    assert served.llm.seen["answered"] > 0
    assert any(one.cached for one in samples.of(Kind.SEARCH))
    assert {one.status for one in samples.of(Kind.WRITE)} == {200, 202}
    assert load.left_behind == ""
    assert await served.namespaces() == ["default"]


async def test_a_model_that_limits_everyone_shows_as_degraded(served: Served) -> None:
    served.llm.behaviour = Behaviour(limited_share=1.0, retry_after_s=60)
    try:
        samples = await served.load(
            answers=1.0, rate=20.0, queries=["Who pays for a return?", "When do parcels leave?"]
        ).run(1)
    finally:
        served.llm.behaviour = Behaviour()
    assert samples.failed == 0
    assert samples.degraded() == {"generator:openai:played": len(samples)}


async def test_stopped_or_cancelled_it_cleans_up_and_keeps_what_it_saw(served: Served) -> None:
    for end in ("stop", "cancel"):
        load = served.load(writes=0.5)
        running = asyncio.create_task(load.run(3600))
        while len(load.samples.of(Kind.WRITE)) < 3:
            await asyncio.sleep(0.005)
        assert len(await served.namespaces()) == 2
        if end == "stop":
            load.stop()
        else:
            running.cancel()
        await asyncio.wait([running])
        assert running.cancelled() == (end == "cancel")
        assert len(load.samples.of(Kind.WRITE)) >= 3
        assert load.samples.for_s < 3600
        assert await served.namespaces() == ["default"]


async def test_what_it_needs_is_asked_before_it_begins(served: Served) -> None:
    titles = await Target(served.url, OWNER, timeout_s=30).titles("default", most=10)
    assert sorted(titles) == sorted(TEXTS)
    assert set(queries_of(titles, seed=0)) >= set(TEXTS)
    with pytest.raises(CouldNotRun, match="404"):
        await served.load(namespace="nowhere").check()
    with pytest.raises(CouldNotRun, match="401"):
        await Load(served.url, "wrong", queries=["x"], rate=1.0).check()
    _, reader = await _key(served, "read")
    load = Load(served.url, reader, queries=["x"], rate=1.0, writes=0.5)
    await load.check()
    with pytest.raises(CouldNotRun, match="403"):
        await load.run(1)
    assert len(load.samples) == 0


async def _key(served: Served, role: str) -> tuple[str, str]:
    target = Target(served.url, OWNER, timeout_s=30)
    async with target.session() as http:
        made = await target.ask(http, "POST", "/v1/keys", json={"principal": "tester", "role": role})
    return made["id"], made["token"]
