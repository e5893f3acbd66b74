"""Whether the ranking is the same on other stores: SciFact by the embedded engines, then, moved by `ragline reindex`, by Milvus
and Elasticsearch."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from pymilvus import MilvusClient

from bench.adapters.elasticsearch import JVM
from bench.figures import Figure, Ground
from bench.server import command, up
from bench.stores.engines import sealed
from tests.engines import elasticsearch, milvus

COLLECTION, MEASURE, NEAR = "scifact", "nDCG@10", 0.01


async def run(ground: Ground) -> list[Figure]:
    folder = ground.collection(COLLECTION)
    return await asyncio.to_thread(_both, folder, ground.indexed)


def _both(folder: Path, indexed: Path) -> list[Figure]:
    (embedded,) = _evaluated(folder, indexed, {})
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as temporary:
        vectors = milvus.standalone(_made(Path(temporary) / "milvus"))
        keywords = elasticsearch.node(_made(Path(temporary) / "elasticsearch"), jvm=JVM)
        vectors.start()
        try:
            keywords.start()
            stores = {"RAGLINE_VECTORS": vectors.url, "RAGLINE_KEYWORDS": keywords.url("bench")}
            fresh, built = _evaluated(folder, indexed, stores)
        finally:
            keywords.stop()
            vectors.stop()
    found = []
    for leg, one in embedded.items():
        found += [
            Figure(f"{COLLECTION} {MEASURE} {leg}, embedded", one),
            Figure(f"{COLLECTION} {MEASURE} {leg}, Milvus and Elasticsearch, at once", fresh[leg]),
            Figure(f"{COLLECTION} {MEASURE} {leg}, Milvus and Elasticsearch, index built", built[leg]),
            Figure(f"{COLLECTION} {MEASURE} {leg}, apart at once", abs(one - fresh[leg])),
            Figure(f"{COLLECTION} {MEASURE} {leg}, apart once the index is built", abs(one - built[leg]), at_most=NEAR),
        ]
    return found


def _evaluated(folder: Path, indexed: Path, stores: dict[str, str]) -> list[dict[str, float]]:
    """Leg → the figure; on stores of their own twice, before and after the index is built. The documents are embedded once:
    other stores are filled from the blobs."""

    def evaluate() -> dict[str, float]:
        report = command("evaluate", str(folder), "--url", server.url)
        return {leg: values[MEASURE]["mean"] for leg, values in report["legs"].items()}

    with up(indexed, env=stores) as server:
        if not stores:
            return [evaluate()]
        command("reindex", "--url", server.url)
        fresh = evaluate()
        _built(stores["RAGLINE_VECTORS"])
        return [fresh, evaluate()]


def _built(url: str) -> None:
    """Until Milvus has the index that was asked for: what is fresh stands under another one, which finds fewer."""
    client = MilvusClient(uri=url.replace("milvus:", "http:"), timeout=60.0)
    try:
        for name in client.list_collections():
            if client.query(name, filter="", output_fields=["count(*)"])[0]["count(*)"]:
                sealed(client, name)
    finally:
        client.close()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
