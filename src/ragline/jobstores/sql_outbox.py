"""Deliveries of webhooks, beside the jobs that they tell about: a job that ends puts its own here in the same commit."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select

from ragline.clock import Clock
from ragline.connections.database import Database
from ragline.jobstores import sql_rows as rows
from ragline.jobstores.refusals import unknown_delivery
from ragline.jobstores.tables import deliveries
from ragline.types import WebhookDelivery


class SqlOutbox:
    """See `protocols.WebhookOutbox`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def _now(self, connection: Connection) -> float:
        """The one clock of all processes: the server's, where there is one."""
        if self._database.alone:
            return self._clock.now()
        return float(connection.execute(rows.CLOCK).scalar_one())

    async def claim_deliveries(
        self, *, most: int, of_host: int, in_flight: Mapping[str, int], lease_s: float
    ) -> list[WebhookDelivery]:
        busy = [host for host, many in in_flight.items() if many >= of_host]

        def hosts(connection: Connection) -> list[str]:
            given = {"now": self._now(connection), "most": most, "busy": busy}
            return list(connection.execute(rows.HOSTS_DUE, given).scalars())

        def work(connection: Connection) -> list[WebhookDelivery]:
            now, claimed = self._now(connection), list[WebhookDelivery]()
            for host in due:
                room = min(of_host - in_flight.get(host, 0), most - len(claimed))
                given = {"now": now, "host": host, "most": room}
                found = connection.execute(rows.DELIVERIES_DUE_LOCKED, given).all() if room > 0 else []
                claimed += [rows.delivery_of(row, attempt=row.attempt + 1, due_at=now + lease_s) for row in found]
            if claimed:
                connection.execute(
                    rows.CLAIM_DELIVERY,
                    [{"which": one.id, "its_attempt": one.attempt, "until": one.due_at} for one in claimed],
                )
            return claimed

        due = await self._database.read(hosts)
        return await self._database.apart(work) if due else []

    async def delivered(self, id: str, attempt: int, *, status: int) -> bool:
        return await self._settle(id, attempt, "delivered", 0.0, status, "")

    async def put_off_delivery(
        self, id: str, attempt: int, *, after_s: float, status: int | None, error: str
    ) -> bool:  # fmt: skip
        return await self._settle(id, attempt, "waiting", after_s, status, error)

    async def bury_delivery(self, id: str, attempt: int, *, status: int | None, error: str) -> bool:
        return await self._settle(id, attempt, "dead", 0.0, status, error)

    async def deliveries(self, *, principal: str | None, state: str | None, most: int) -> list[WebhookDelivery]:
        chosen = select(deliveries).order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc()).limit(most)
        if principal is not None:
            chosen = chosen.where(deliveries.c.principal == principal)
        if state is not None:
            chosen = chosen.where(deliveries.c.state == state)
        found = await self._database.read(lambda c: c.execute(chosen).all())
        return [rows.delivery_of(row) for row in found]

    async def replay_delivery(self, id: str, *, principal: str | None) -> WebhookDelivery:
        def work(connection: Connection) -> WebhookDelivery:
            given = {"which": id, "whose": principal or "", "now": self._now(connection)}
            row = connection.execute(rows.REPLAY, given).first()
            if row is None:
                raise unknown_delivery(id)
            return rows.delivery_of(row)

        return await self._database.write(work)

    async def _settle(
        self, id: str, attempt: int, state: str, after_s: float, status: int | None, error: str
    ) -> bool:  # fmt: skip
        def work(connection: Connection) -> bool:
            given = {
                "which": id, "mine": attempt, "its_state": state, "until": self._now(connection) + after_s,
                "its_status": status, "why": error,
            }  # fmt: skip
            return connection.execute(rows.SETTLE_DELIVERY, given).first() is not None

        return await self._database.write(work)
