"""How a write becomes visible in Elasticsearch, and what each way costs (docs/adr/0012): `python -m bench.elasticsearch_refresh`.

`true`: the bulk refreshes before it answers. `wait_for`: it waits for the index's own refresh, every second. `after`: the
bulk alone, and a refresh before the next search. Each round writes, then searches.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import elasticsearch

from bench.adapters.elasticsearch import JVM
from tests.engines.elasticsearch import node

WAYS: tuple[tuple[str, Any], ...] = (("true", True), ("wait_for", "wait_for"), ("after", False))
ROUNDS = 15
TEXT = "the heron waits in shallow water and takes what swims by " * 15


async def measure(host: str) -> None:
    async with elasticsearch.AsyncElasticsearch(f"http://{host}") as client:
        for size in (10, 100, 1_000):
            for name, refresh in WAYS:
                index = f"bench-{uuid.uuid4().hex[:8]}"
                interval = "1s" if name == "wait_for" else "30s"
                await client.indices.create(
                    index=index, settings={"number_of_replicas": 0, "refresh_interval": interval}
                )
                writes, searches = [], []
                for turn in range(ROUNDS + 5):
                    rows: list[Any] = []
                    for n in range(size):
                        rows += [{"index": {"_id": f"{turn}-{n}"}}, {"text": TEXT}]
                    start = time.perf_counter()
                    await client.bulk(index=index, operations=rows, refresh=refresh)
                    written = time.perf_counter()
                    if name == "after":
                        await client.indices.refresh(index=index)
                    found = await client.search(index=index, query={"match_all": {}}, size=0, track_total_hits=True)
                    assert found["hits"]["total"]["value"] == (turn + 1) * size
                    if turn >= 5:
                        writes.append(written - start)
                        searches.append(time.perf_counter() - written)
                await client.indices.delete(index=index)
                write, search = (1000 * statistics.median(times) for times in (writes, searches))
                print(f"{size:5} rows  {name:9} write {write:7.1f} ms   next search {search:6.1f} ms", flush=True)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
        server = node(Path(folder), jvm=JVM)
        server.start()
        try:
            asyncio.run(measure(server.host))
        finally:
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
