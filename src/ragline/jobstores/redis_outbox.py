"""Deliveries of webhooks in Redis, beside the jobs that they tell about: the script that ends a job puts its own here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragline.jobstores.redis_rows import delivery_of, fields_of, microseconds
from ragline.jobstores.redis_server import JobServer
from ragline.jobstores.refusals import unknown_delivery
from ragline.types import WebhookDelivery

PAGE = 200
"""Read at once while looking for those of a state."""


class RedisOutbox:
    """See `protocols.WebhookOutbox`."""

    def __init__(self, jobs: JobServer) -> None:
        self._jobs = jobs

    async def claim_deliveries(
        self, *, most: int, of_host: int, in_flight: Mapping[str, int], lease_s: float
    ) -> list[WebhookDelivery]:
        flying = [word for host, many in in_flight.items() for word in (host, many)]
        found = await self._jobs.run("claim_deliveries", most, of_host, microseconds(lease_s), *flying)
        return [delivery_of(fields_of(one)) for one in found]

    async def delivered(self, id: str, attempt: int, *, status: int) -> bool:
        return await self._settle(id, attempt, "delivered", 0.0, status, "")

    async def put_off_delivery(
        self, id: str, attempt: int, *, after_s: float, status: int | None, error: str
    ) -> bool:  # fmt: skip
        return await self._settle(id, attempt, "waiting", after_s, status, error)

    async def bury_delivery(self, id: str, attempt: int, *, status: int | None, error: str) -> bool:
        return await self._settle(id, attempt, "dead", 0.0, status, error)

    async def deliveries(self, *, principal: str | None, state: str | None, most: int) -> list[WebhookDelivery]:
        self._jobs.must_be_open()
        client = self._jobs.server.client
        line = self._jobs.key("deliveries") if principal is None else self._jobs.key("deliveries_of", principal)
        found: list[WebhookDelivery] = []
        start = 0
        with self._jobs.server.translating("listing deliveries"):
            while len(found) < most:
                ids: Any = await client.zrange(line, start, start + PAGE - 1, desc=True)
                if not ids:
                    break
                start += PAGE
                async with client.pipeline(transaction=False) as several:
                    for id in ids:
                        several.hgetall(self._jobs.key("delivery", id.decode()))
                    rows = await several.execute()
                found += [one for row in rows if row and (one := delivery_of(row)) and state in (None, one.state)]
        return found[:most]

    async def replay_delivery(self, id: str, *, principal: str | None) -> WebhookDelivery:
        found = await self._jobs.run("replay_delivery", id, principal or "")
        if not found:
            raise unknown_delivery(id)
        return delivery_of(fields_of(found))

    async def _settle(
        self, id: str, attempt: int, state: str, after_s: float, status: int | None, error: str
    ) -> bool:  # fmt: skip
        said = "" if status is None else status
        return bool(
            await self._jobs.run("settle_delivery", id, attempt, state, microseconds(after_s), said, _bytes(error))
        )


def _bytes(text: str) -> bytes:
    """What a stranger's server said may hold half of a surrogate pair."""
    return text.encode("utf-8", "replace")
