"""The Redis that jobs live in: whether it keeps what it takes, its scripts, and the words by which processes hear of each other.

A cache may lose everything at any time, and a job store nothing. Both are Redis, and look alike; so the settings of the server
are read at the start, and one that would lose an accepted job is refused with the command that mends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from redis.commands.core import AsyncScript

from ragline.connections.redis import Durability, RedisServer
from ragline.errors import ConfigurationError, EngineError, EngineUnavailable

log = structlog.get_logger()

ENGINE = "jobs:redis"
SETTING = "jobs.url"

SCRIPTS = Path(__file__).parent / "lua"

QUIET_S = 5.0
"""Without a word from the server for so long it is asked whether it is there; after as long again it is connected to anew."""

AGAIN_S = 1.0


def check(told: Durability, place: str, *, vouched: bool) -> None:
    """Raises ConfigurationError: it may lose what it has taken; or it does not say, and nobody vouches for it."""
    wrong = [
        (told.appendonly is False, "appendonly is no: a restart loses jobs", "CONFIG SET appendonly yes"),
        (
            told.appendfsync not in ("always", None), f"appendfsync is {told.appendfsync}: a power cut loses jobs",
            "CONFIG SET appendfsync always",
        ),
        (
            told.maxmemory_policy not in ("noeviction", None),
            f"maxmemory-policy is {told.maxmemory_policy}: it throws jobs away when it is full",
            "CONFIG SET maxmemory-policy noeviction",
        ),
    ]  # fmt: skip
    reasons = [reason for is_wrong, reason, _ in wrong if is_wrong]
    if reasons:
        commands = " and ".join(f"`redis-cli {command}`" for is_wrong, _, command in wrong if is_wrong)
        raise ConfigurationError(
            f"{SETTING}: the Redis at {place} may lose accepted jobs: {'; '.join(reasons)}.",
            next_step=f"Run {commands}, then `redis-cli CONFIG REWRITE`; or name another server than the cache's.",
        )
    if None in (told.appendonly, told.appendfsync, told.maxmemory_policy) and not vouched:
        raise ConfigurationError(
            f"{SETTING}: the Redis at {place} does not say whether it keeps what it has taken.",
            next_step="See to it that appendonly is yes, appendfsync always and maxmemory-policy noeviction, then vouch for it "
            "by jobs.redis_vouched = true.",
        )


class JobServer:
    """One Redis, and one task that hears what any process tells. Connects at `open`."""

    def __init__(self, url: str) -> None:
        self.server = RedisServer(url, setting=SETTING, engine=ENGINE)
        self.prefix = self.server.key("jobs")
        self._scripts: dict[str, AsyncScript] = {}
        self._told: Callable[[str | None], None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self, *, vouched: bool) -> None:
        """Raises ConfigurationError, EngineError."""
        await self.server.check_version()
        await self.check(vouched=vouched)
        ready = asyncio.Event()
        self._hearing = asyncio.create_task(self._hear(ready))
        await ready.wait()

    async def check(self, *, vouched: bool) -> None:
        check(await self.server.durability(), self.server.options.place, vouched=vouched)

    def key(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    async def run(self, script: str, *words: str | bytes | int) -> Any:
        """One commit: the script of that name with these words. Raises EngineError."""
        self.must_be_open()
        if script not in self._scripts:
            text = (SCRIPTS / "shared.lua").read_text("utf-8") + (SCRIPTS / f"{script}.lua").read_text("utf-8")
            self._scripts[script] = self.server.client.register_script(text)
        with self.server.translating(script.replace("_", " ")):
            return await self._scripts[script](args=[self.prefix, *words])

    def must_be_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("The job store is closed.", next_step="Start the process again.", engine=ENGINE)

    def watch(self, told: Callable[[str | None], None]) -> None:
        self._told = told

    async def aclose(self) -> None:
        self._closed = True
        if self._hearing is not None:
            self._hearing.cancel()
            with suppress(asyncio.CancelledError):
                await self._hearing
        await self.server.aclose()

    async def _hear(self, ready: asyncio.Event) -> None:
        """Until cancelled. Whoever watches is told of every gap."""
        while True:
            try:
                with self.server.translating("hearing of jobs"):
                    await self._listen(ready)
            except EngineError as error:
                log.warning("not told of jobs, trying again", error=error.message)
            finally:
                ready.set()
            self._tell(None)
            await asyncio.sleep(AGAIN_S)

    async def _listen(self, ready: asyncio.Event) -> None:
        """Returns when the server has gone quiet."""
        async with self.server.client.pubsub() as words:
            await words.subscribe(self.key("told"))
            quiet = 0
            while quiet < 2:
                word = await words.get_message(timeout=QUIET_S)
                if word is None:
                    quiet += 1
                    await words.ping()
                    continue
                quiet = 0
                if word["type"] == "subscribe":
                    ready.set()
                    self._tell(None)
                elif word["type"] == "message":
                    self._tell(word["data"].decode("utf-8", "replace"))

    def _tell(self, job: str | None) -> None:
        if self._told is not None:
            self._told(job)
