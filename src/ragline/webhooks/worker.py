"""The loop that brings deliveries from the outbox to their receivers: at least once, each under one id.

A claim is a lease, longer than a try can take. Who is killed between the receiver's answer and the word to the store has sent for
nothing: the next one sends again, with the same `webhook-id`, by which a receiver knows it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import structlog

from ragline import metrics
from ragline.errors import RaglineError
from ragline.protocols import WebhookOutbox
from ragline.settings import WebhooksSettings
from ragline.types import WebhookDelivery
from ragline.webhooks.sender import Outcome, Sender

log = structlog.get_logger()

LOOK_S = 1.0
"""Between two looks of an idle loop."""

LEASE_OUTLASTS_S = 30.0
"""How much longer than a try the lease is: for the word to the store."""

GROWTH = 4.0
"""Of the wait after each failed try."""

DRAIN_S = 8.0
"""What tries under way still get when the process stops; then they are given back, due at once."""

MOST_ERROR_CHARS = 500


class WebhookWorker:
    """Sends `concurrency` deliveries at a time, of which `of_host` to one host."""

    def __init__(self, *, outbox: WebhookOutbox, sender: Sender, settings: WebhooksSettings) -> None:
        self._outbox = outbox
        self._sender = sender
        self._settings = settings
        self._working: dict[asyncio.Task[None], WebhookDelivery] = {}
        self._claiming: asyncio.Future[list[WebhookDelivery]] | None = None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                try:
                    found = await self._round()
                except RaglineError as error:
                    log.warning("no deliveries claimed", error=str(error))
                    found = False
                except Exception:  # a defect must be seen, and must not end the loop
                    log.exception("defect while claiming deliveries")
                    found = False
                if not found:
                    await self._wait()
        finally:
            await self._drain()

    async def _round(self) -> bool:
        """Begin what is due and has room; whether that was anything."""
        free = self._settings.concurrency - len(self._working)
        if not free:
            return False
        # Shielded: a claim that is committed must be known of, so that it can be given back.
        self._claiming = asyncio.ensure_future(
            self._outbox.claim_deliveries(
                most=free, of_host=self._settings.of_host,
                in_flight=Counter(delivery.host for delivery in self._working.values()),
                lease_s=self._settings.timeout_s + LEASE_OUTLASTS_S,
            )
        )  # fmt: skip
        claimed = await asyncio.shield(self._claiming)
        self._claiming = None
        for delivery in claimed:
            task = asyncio.create_task(self._one(delivery))
            self._working[task] = delivery
            task.add_done_callback(lambda task: self._working.pop(task, None))
        return bool(claimed)

    async def _wait(self) -> None:
        """Until there may be more to do: a place is free again, or it is time to look."""
        if self._working:
            await asyncio.wait(self._working, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(LOOK_S)

    async def _one(self, delivery: WebhookDelivery) -> None:
        try:
            what = await self._settle(delivery, await self._tried(delivery))
        except RaglineError as error:
            log.warning("the end of a delivery is not written, it is sent again", id=delivery.id, error=str(error))
            what = "unwritten"
        except Exception:  # a defect must cost its own delivery only, and must be seen; the lease ends by itself
            log.exception("defect while writing the end of a delivery", id=delivery.id)
            what = "unwritten"
        metrics.webhook_deliveries_total.labels(what).inc()

    async def _tried(self, delivery: WebhookDelivery) -> Outcome:
        if delivery.attempt - delivery.spent > self._settings.attempts:  # each ended with its process
            return Outcome(None, "No try came to its end: the processes that were at it were lost.", final=True)
        try:
            return await self._sender.send(delivery)
        except Exception as error:  # a defect must be seen, and must not be tried for ever
            log.exception("defect in a delivery", id=delivery.id)
            return Outcome(None, f"Ragline failed in a way it should not: {type(error).__name__}.")

    async def _settle(self, delivery: WebhookDelivery, outcome: Outcome) -> str:
        """Write what became of a try; what that was, in one word."""
        id, attempt, status = delivery.id, delivery.attempt, outcome.status
        if not outcome.error and status is not None:
            kept = await self._outbox.delivered(id, attempt, status=status)
            return "delivered" if kept else "lost"
        error, tries = outcome.error[:MOST_ERROR_CHARS], attempt - delivery.spent
        if outcome.final or tries >= self._settings.attempts:
            kept = await self._outbox.bury_delivery(id, attempt, status=status, error=error)
            log.warning("webhook is dead", id=id, job=delivery.job, tries=tries, why=error)
            return "dead" if kept else "lost"
        after_s = self._backoff_s(tries, outcome.retry_after_s)
        log.info("webhook put off", id=id, job=delivery.job, tries=tries, after_s=round(after_s), why=error)
        kept = await self._outbox.put_off_delivery(id, attempt, after_s=after_s, status=status, error=error)
        return "put_off" if kept else "lost"

    def _backoff_s(self, tries: int, told_s: float | None) -> float:
        """Never before the receiver says, which is bounded where it is read; never all at once."""
        own = min(self._settings.longest_backoff_s, self._settings.first_backoff_s * GROWTH ** min(tries - 1, 30))
        return max(own * random.uniform(0.5, 1.0), told_s or 0.0)

    async def _drain(self) -> None:
        claimed = await asyncio.gather(self._claiming, return_exceptions=True) if self._claiming else []
        unbegun = [one for found in claimed if isinstance(found, list) for one in found]
        if self._working:
            await asyncio.wait(self._working, timeout=DRAIN_S)
        working = dict(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        for one in (*working.values(), *unbegun):
            try:
                await self._outbox.put_off_delivery(
                    one.id, one.attempt, after_s=0.0, status=None, error="This server stopped while it was sent."
                )
            except RaglineError as error:
                log.warning("delivery not given back, its lease will end", id=one.id, error=str(error))
