"""Run the benchmarks, print one table, write it as JSON.

    make bench DATA=FOLDER [BENCH="query_path startup"]
    python -m bench.run [NAME …] [--data FOLDER] [--work FOLDER] [--json FILE]

FOLDER holds collections as BEIR has them, a folder each, named as bench/quality.py names them: `scifact` is enough for
all but parts of `quality`, `extractive` and `parsing`, and `formats`. Studies behind decisions have command lines of
their own; --list names them.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure, Ground, Skipped, show, write

BENCHMARKS = ("quality", "query_path", "ingest_rate", "parsing", "formats", "startup", "extractive")
"""In this order: `quality` indexes what `query_path` and `startup` use."""
STUDIES = (
    "vector_engines",
    "sketch",
    "embedder_precision",
    "registry_commits",
    "readers",
    "chunking",
    "crashes",
    "hostile_mix",
    "chunk_messages",
    "adapters",
    "stores",
    "roles",
    "elasticsearch_refresh",
    "jobs",
    "cache",
)

NO_DATA = """No --data, so what needs a collection is skipped. Get SciFact (BEIR) from
https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/scifact.zip, unpack it, and name the folder around it."""


def main() -> int:
    given = _arguments()
    if given.list:
        print("benchmarks:", *BENCHMARKS, "\nstudies (python -m bench.NAME --help):", *STUDIES)
        return 0
    if given.data is None:
        print(NO_DATA, file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as temporary:
        ground = Ground(given.data, given.work or Path(temporary))
        ground.work.mkdir(parents=True, exist_ok=True)
        results, skipped = _run(given.names or BENCHMARKS, ground)
    show(results, skipped)
    if given.json:
        write(given.json, results, skipped)
    return int(any(figure.met is False for figures in results.values() for figure in figures))


def _run(names: Sequence[str], ground: Ground) -> tuple[dict[str, list[Figure]], dict[str, str]]:
    results: dict[str, list[Figure]] = {}
    skipped: dict[str, str] = {}
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            results[name] = asyncio.run(importlib.import_module(f"bench.{name}").run(ground))
        except Skipped as missing:
            skipped[name] = str(missing)
    return results, skipped


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--data", type=Path, help="folder of collections")
    parser.add_argument("--work", type=Path, help="folder to keep what was ingested in, for the next run")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and the studies")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
