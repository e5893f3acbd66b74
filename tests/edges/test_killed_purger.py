"""A worker killed while it purges a real Varnish: the purge is not lost, and done again where nobody knows that it was done."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ragline.api.app import gateway
from ragline.build import build
from ragline.registry.edge_purges import EdgePurges
from ragline.settings import EdgeSettings, Settings
from tests.edges.origin import served
from tests.edges.test_varnish import OWNER, Site
from tests.engines.postgres import Postgres
from tests.engines.server import free_port
from tests.engines.varnish import varnish
from tests.house import House

PURGER = """
import asyncio, os, signal, sys
from ragline.clock import SystemClock
from ragline.connections.database import Database
from ragline.edges.varnish import VarnishEdge
from ragline.purging import PurgeWorker
from ragline.registry.edge_purges import EdgePurges
from ragline.registry.migrations import SCHEMA
from ragline.settings import EdgeSettings

class Deadly(VarnishEdge):
    async def purge(self, keys, *, namespace, visible):
        if moment == "acknowledged":
            await super().purge(keys, namespace=namespace, visible=visible)
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    database, clock = await Database.open(registry, SCHEMA), SystemClock()
    edge = Deadly(varnish, token=None, timeout_s=10.0)
    purges = EdgePurges(database, clock)
    await PurgeWorker(purges=purges, edge=edge, database=database, clock=clock, settings=EdgeSettings()).run()

registry, varnish, moment = sys.argv[1:]
asyncio.run(main())
"""
"""Dies of SIGKILL at its first purge: before it is asked of the edge, or when that has acknowledged and no commit says so yet."""


@pytest.fixture
async def registry(postgres: Postgres) -> str:
    return await postgres.database()


@pytest.fixture
async def site(registry: str, tmp_path: Path) -> AsyncIterator[Site]:
    port = free_port()
    with varnish(port) as cache:
        edge = EdgeSettings(url=cache.edge, popular_after=1)
        system = await build(Settings(data_dir=tmp_path, registry=registry, edge=edge))
        reading = httpx.AsyncClient(base_url=cache.url, timeout=60.0)
        async with served(gateway(system, owner_token=OWNER), port) as origin, reading as reader:
            site = Site(House(system), origin, cache, reader)
            await site.publish()
            await site.write("ships.txt", "Seven ships left the harbour at dawn.")
            await site.purge()
            yield site
        await system.aclose()


async def _killed(registry: str, site: Site, moment: str) -> None:
    command = [sys.executable, "-c", PURGER, registry, site.varnish.edge, moment]
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == -signal.SIGKILL


async def _over(site: Site) -> EdgePurges:
    """The dead worker's lease is over; nothing else is due."""
    database = site.house.system.database
    await database.write(lambda c: c.exec_driver_sql("UPDATE edge_purges SET due_at = 0 WHERE passes = 0").rowcount)
    return EdgePurges(database, site.house.system.clock)


@pytest.mark.parametrize(("moment", "served"), [("asked", "Seven"), ("acknowledged", "Eight")])
async def test_a_worker_killed_around_a_purge_leaves_it_to_the_next(
    site: Site, registry: str, moment: str, served: str
) -> None:
    await site.read()
    await site.write("ships.txt", "Eight ships left the harbour at dusk.")
    assert "Seven" in site.texts(await site.read()), "stored, and not purged yet"
    await _killed(registry, site, moment)
    assert served in site.texts(await site.read())
    assert (await site.read()).headers["x-cache"] == "HIT"

    purges = await _over(site)
    assert (await purges.waiting()).count == 1, "nobody has committed that it is done"
    await site.purge()
    after = await site.read()
    assert after.headers["x-cache"] == "MISS", "purged, in one case once more"
    assert "Eight" in site.texts(after)
    assert "Eight" in site.texts(await site.read())
