"""`GET /v1/status` and `ragline status`: what is left out, and why."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ragline.breaker import RUNNING
from ragline.errors import EngineUnavailable

from .conftest import Api


async def _nothing() -> None:
    return None


async def test_every_engine_is_there_and_what_waits(api: Api) -> None:
    told = await api.call("GET", "/v1/status")
    assert [one["name"] for one in told["engines"]] == ["keyword", "dense", "registry", "cache", "generator:extractive"]
    assert not any(one["left_out"] for one in told["engines"])
    assert told["queues"] == {"retrieval": 0, "generation": 0}
    assert told["documents_waiting"] == 0


async def test_what_is_left_out_is_told_with_its_last_error(api: Api) -> None:
    leg = api.system.query.legs["dense"]
    away = EngineUnavailable("It is away.", next_step="Wait.", engine="vectors")

    async def still() -> None:
        raise away

    for _ in range(RUNNING):
        leg.breaker.failed(away, still)
    told = await api.call("GET", "/v1/status")
    (dense,) = [one for one in told["engines"] if one["name"] == "dense"]
    assert (dense["left_out"], dense["last_error"]) == (True, "It is away. Wait.")
    assert dense["last_error_at"]
    await leg.breaker.aclose()
    leg.breaker._probing = None


@pytest.mark.parametrize("silent", [True, False])
async def test_while_an_engine_is_away_or_silent_the_rest_is_told(
    api: Api, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    async def away() -> Any:
        if silent:
            await asyncio.Event().wait()
        raise EngineUnavailable("It is away.", next_step="Wait.", engine="test")

    monkeypatch.setattr("ragline.api.app.READY_S", 0.2)
    for part, method in (
        (api.system.documents, "waiting"), (api.system.jobs.store, "lengths"), (api.system.vectors, "collections")
    ):  # fmt: skip
        monkeypatch.setattr(part, method, away)
    told = await api.call("GET", "/v1/status")
    assert (told["documents_waiting"], set(told["queues"].values())) == (None, {None})
    async with api.client() as client:
        assert "documents_waiting NaN" in (await client.get("/metrics")).text
    ready = await api.call("GET", "/readyz")
    assert ready["ready"] is True
    assert [one.partition(":")[0] for one in ready["missing"]] == ["registry", "vectors", "jobs"]
    monkeypatch.setattr(api.system.keywords, "collections", away)
    assert (await api.call("GET", "/readyz", status=503))["ready"] is False
