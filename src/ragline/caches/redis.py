"""The hot cache in a Redis, which all processes share (docs/engines/redis.md).

    PREFIX:hot:NAMESPACE:KEY     an entry, with its time to live
    PREFIX:hot                   a sorted set of NAMESPACE:KEY by when each was asked for last: what is over the bound goes

Scripts, so that an entry and its place in the order are one step, and a hit is one round trip. Time is the server's: the
clocks of the processes differ.
"""

from __future__ import annotations

from typing import cast

from ragline.connections.redis import RedisServer
from ragline.types import Kept

MOST_AT_ONCE = 1_000
"""Entries that one step removes or looks at: Redis does nothing else meanwhile."""

GET = """
local value = redis.call('GET', KEYS[1])
if not value then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return false
end
local now = redis.call('TIME')
redis.call('ZADD', KEYS[2], 'XX', now[1] * 1000000 + now[2], ARGV[1])
return {value, redis.call('PTTL', KEYS[1])}
"""

PUT = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3] * 1000)
local over = math.min(redis.call('ZCARD', KEYS[2]) - ARGV[4], tonumber(ARGV[5]))
if over > 0 then
  local gone = redis.call('ZPOPMIN', KEYS[2], over)
  for i = 1, #gone, 2 do redis.call('UNLINK', KEYS[2] .. ':' .. gone[i]) end
end
"""
"""What was asked for longer ago than an entry lives has no entry any more."""


class RedisCache:
    """`entries`: kept at most. Raises ConfigurationError: the URL.  EngineError: at the first call."""

    name = "redis"

    def __init__(self, url: str, *, entries: int) -> None:
        self.server = RedisServer(url, setting="cache.url", engine="cache:redis")
        self._entries = entries
        self._order = self.server.key("hot")
        self._get = self.server.client.register_script(GET)
        self._put = self.server.client.register_script(PUT)

    async def check(self) -> None:
        await self.server.check_version()

    async def get(self, namespace: str, key: str) -> Kept | None:
        keys = [self._key(namespace, key), self._order]
        with self.server.translating("reading the cache"):
            found = await self._get(keys=keys, args=[f"{namespace}:{key}"])
        return Kept(found[0], max(found[1], 0) / 1000) if found else None

    async def put(self, namespace: str, key: str, value: bytes, *, ttl_s: float) -> None:
        keys = [self._key(namespace, key), self._order]
        args: list[bytes | str | int] = [
            f"{namespace}:{key}",
            value,
            max(1, round(ttl_s * 1000)),
            self._entries,
            MOST_AT_ONCE,
        ]
        with self.server.translating("writing to the cache"):
            await self._put(keys=keys, args=args)

    async def remove(self, namespace: str, key: str) -> None:
        with self.server.translating("removing from the cache"):
            async with self.server.client.pipeline(transaction=False) as steps:
                steps.unlink(self._key(namespace, key))
                steps.zrem(self._order, f"{namespace}:{key}")
                await steps.execute()

    async def clear(self, namespace: str) -> int:
        gone, cursor = 0, 0
        with self.server.translating("clearing the cache"):
            while True:
                cursor, found = await self.server.client.zscan(
                    self._order, cursor, match=f"{namespace}:*", count=MOST_AT_ONCE
                )
                members = {cast(bytes, member) for member, _ in found}
                if members:
                    async with self.server.client.pipeline(transaction=False) as steps:
                        steps.unlink(*(self._order.encode() + b":" + member for member in members))
                        steps.zrem(self._order, *members)
                        gone += (await steps.execute())[1]
                if cursor == 0:
                    return gone

    async def size(self) -> int:
        with self.server.translating("asking the cache"):
            return int(await self.server.client.zcard(self._order))

    async def aclose(self) -> None:
        await self.server.aclose()

    def _key(self, namespace: str, key: str) -> str:
        return f"{self._order}:{namespace}:{key}"
