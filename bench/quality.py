"""How good the ranking is, through HTTP: `ragline evaluate` against `ragline up`, on whatever collections there are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.figures import Figure, Ground, Skipped
from bench.server import command, up

COLLECTIONS: Mapping[str, float | None] = {
    "scifact": 0.71, "cranfield": None, "cisi": None, "hotpotqa-100": None, "rag-multi-corpus": None,
}  # fmt: skip
"""Name of the folder → the least nDCG@10 of the hybrid ranking that is promised."""

JUDGED, ASKED = ("nDCG@10", "Recall@100"), ("hit@5", "answer@5", "evidence@5")


async def run(ground: Ground) -> list[Figure]:
    folders: dict[str, Path] = {}
    for name in COLLECTIONS:
        try:
            folders[name] = ground.collection(name)
        except Skipped as missing:
            why = str(missing)
    if not folders:
        raise Skipped(why)
    with up(ground.indexed) as server:
        return [
            figure
            for name, folder in folders.items()
            for figure in figures(name, await asyncio.to_thread(command, "evaluate", str(folder), "--url", server.url))
        ]


def figures(collection: str, report: Mapping[str, Any]) -> list[Figure]:
    found = []
    for measure in (*JUDGED, *ASKED):
        for leg, values in report["legs"].items():
            if measure not in values:
                continue
            one = values[measure]
            promised = COLLECTIONS[collection] if (leg, measure) == ("hybrid", "nDCG@10") else None
            note = f"[{one['low']:.3f}, {one['high']:.3f}], {one['n']} queries"
            found.append(Figure(f"{collection} {measure} {leg}", one["mean"], "", at_least=promised, note=note))
    return found
