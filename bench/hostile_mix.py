"""Files that nobody would choose among a thousand good ones: does each end as it must, and does the service live on?

    python -m bench.hostile_mix --data FOLDER [--good 1000] [--json FILE]

FOLDER holds `ingest` with its manifest, as `bench/parsing.py` takes it, and SciFact, whose abstracts are the good ones.
All go by HTTP into `ragline up` on an empty folder, in an order drawn by chance, the same each time.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.figures import Figure, Ground, show, write
from bench.ground import plain_texts
from bench.parsing import entries, met_by
from bench.processes import resident_mib
from bench.server import Server, up
from ragline.datafolder import DataFolder
from ragline.sentences import sentences
from ragline.settings import IngestSettings

SEED = 13
IN_REQUEST = 64
"""Files in an upload, queries in a search: the most that a batch of searches may hold."""

LOOK_S = 0.2
"""Between two looks at the memory, and at what is still to be done."""

FIRST, DEPTH = 10, 50
"""Passages among which a document that is asked for by a sentence of its own should be, and must be. A sentence that says
little of what it stands in is the best by its words alone, and goes down in the fusion by ranks."""

SENTENCE_CHARS = range(60, 400)
"""Of a sentence that says something, and that somebody might paste into a search."""

MOST_MIB = 2048


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds `ingest` and `scifact`")
    parser.add_argument("--good", type=int, default=1000, help="good documents (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ragline-bench-") as work:
        results = {"hostile_mix": measured(Ground(given.data, Path(work)), most=given.good)}
    show(results, {})
    if given.json:
        write(given.json, results, {})
    return int(any(figure.met is False for figure in results["hostile_mix"]))


def measured(ground: Ground, *, most: int) -> list[Figure]:
    """Whatever is not as it must be is told on stderr, a line each."""
    assert ground.data
    source = ground.data / "ingest"
    hostile = entries(source / "manifest.jsonl")
    good = {one.uri: one.data for one in plain_texts(ground.collection("scifact") / "corpus.jsonl", most=most)}
    files = [*good.items(), *((one["path"], (source / one["path"]).read_bytes()) for one in hostile)]
    random.Random(SEED).shuffle(files)
    folder = ground.work / "mix"
    with up(folder) as server, watched(server.process.pid) as memory, _client(server) as http:
        begun = memory[-1]
        start = time.time()
        reasons = _upload(http, files)
        _wait(http)
        documents = {one["uri"]: _get(http, f"/documents/{one['id']}/why") for one in _documents(http)}
        reasons |= {uri: one["reason"] for uri, one in documents.items() if one["state"] == "failed"}
        figures = [
            _as_expected(http, hostile, documents, reasons),
            *_good_ones(http, good, documents),
            _told_why(documents, reasons),
            *_rates(documents, start),
            *_times(server, documents),
        ]
        same = _lives(server, folder)
    peak = max(memory)
    return [
        *figures,
        Figure("most memory, with all children", peak / 1024, "GiB", at_most=MOST_MIB / 1024,
               note=f"PSS, {len(memory)} looks; {begun / 1024:.2f} at the start, {memory[-1] / 1024:.2f} at the end"),
        Figure("restarts", int(not same), at_most=0, note="the process that was started still answers"),
    ]  # fmt: skip


# ── what became of them ──────────────────────────────────────────────────────────────────────────────────────────────


def _as_expected(
    http: httpx.Client, hostile: Sequence[Mapping[str, Any]], documents: Mapping[str, Any], reasons: Mapping[str, str]
) -> Figure:
    missed = 0
    for entry in hostile:
        uri, expect = entry["path"], entry["expect"]
        reason = reasons.get(uri)
        text = "" if reason or expect["kind"] != "text" else _text(http, documents[uri])
        if not met_by(expect, text, reason.partition(":")[0] if reason else None):
            missed += 1
            _tell(f"missed: {uri}: {expect}: {reason or 'indexed'}")
    share = 100 * (1 - missed / len(hostile))
    return Figure(
        "hostile files as expected", share, "%", at_least=99, note=f"{len(hostile) - missed} of {len(hostile)}"
    )


def _text(http: httpx.Client, document: Mapping[str, Any]) -> str:
    """All that can be found of it: its chunks, where they overlap only once."""
    parts, reached = list[str](), 0
    for chunk in _get(http, f"/documents/{document['id']}/chunks")["chunks"]:
        if chunk["end"] > reached:
            parts.append(chunk["text"][max(0, reached - chunk["start"]) :])
            if chunk["start"] > reached:
                parts.insert(-1, "\n")  # what lies between two chunks is white space
            reached = chunk["end"]
    return "".join(parts)


def _good_ones(http: httpx.Client, good: Mapping[str, bytes], documents: Mapping[str, Any]) -> list[Figure]:
    lost = [uri for uri in good if documents[uri]["state"] != "indexed"]
    for uri in lost:
        _tell(f"good, not indexed: {uri}: {documents[uri]['reason']}")
    asked = _own_sentences({uri: data.decode() for uri, data in good.items()})
    queries, places = list(asked.items()), Counter[int]()
    for start in range(0, len(queries), IN_REQUEST):
        part = queries[start : start + IN_REQUEST]
        body = [{"query": sentence, "top_k": DEPTH} for _, sentence in part]
        for (uri, sentence), result in zip(part, _post(http, "/search", json=body)["results"], strict=True):
            uris = [passage["uri"] for passage in result["passages"]]
            place = uris.index(uri) + 1 if uri in uris else 0
            places[place] += 1
            if not 0 < place <= FIRST:
                _tell(f"good, place {place or 'none'}: {uri}: {sentence!r}: {result['degraded']}")
    total, first = len(queries), sum(count for place, count in places.items() if 0 < place <= FIRST)
    return [
        Figure("good documents indexed", 100 * (1 - len(lost) / len(good)), "%", at_least=100, note=f"of {len(good)}"),
        Figure("good documents found by a sentence of their own", 100 * (1 - places[0] / total), "%", at_least=100,
               note=f"of {total}; {first} among the first {FIRST}, {places[1]} the first"),
    ]  # fmt: skip


def _own_sentences(texts: Mapping[str, str]) -> dict[str, str]:
    """One of each text, drawn by chance, that stands in no other; the whole text where it has none."""
    chance = random.Random(SEED)
    found = {uri: [text[start:end] for start, end in sentences(text)] for uri, text in texts.items()}
    known = Counter(sentence for own in found.values() for sentence in set(own))
    return {
        uri: chance.choice(
            [one for one in own if len(one) in SENTENCE_CHARS and known[one] == 1] or [texts[uri][:2000]]
        )
        for uri, own in found.items()
    }


def _told_why(documents: Mapping[str, Any], reasons: Mapping[str, str]) -> Figure:
    """Every document is served, or has a reason; none is in between."""
    silent = [uri for uri, one in documents.items() if one["state"] != "indexed" and not reasons.get(uri)]
    for uri in silent:
        _tell(f"neither served nor explained: {uri}: {documents[uri]['state']}")
    kinds = Counter(reason.partition(":")[0] for reason in reasons.values()).most_common()
    words = ", ".join(f"{count} {kind}" for kind, count in kinds)
    return Figure("neither served nor explained", len(silent), at_most=0, note=f"of {len(documents)}; failed: {words}")


def _rates(documents: Mapping[str, Any], start: float) -> list[Figure]:
    """What lies in archives comes late, and may be as long as it likes: it is told by itself."""
    outer = [one for one in documents.values() if one["parent"] is None]
    outer_s, all_s = (max(one["history"][-1]["at"] for one in some) - start for some in (outer, documents.values()))
    chunks = sum(one["chunks"] or 0 for one in documents.values())
    return [
        Figure("documents a minute", 60 * len(outer) / outer_s, note=f"{len(outer)} uploads in {outer_s:.0f} s"),
        Figure(
            "until all that lies in them is indexed, too",
            all_s,
            "s",
            note=f"{len(documents)} documents, {chunks} chunks",
        ),
    ]


def _times(server: Server, documents: Mapping[str, Any]) -> list[Figure]:
    """A child's time is known by its bucket alone; the stage's own, from the stories, waits for a child, too."""
    limit_s = IngestSettings().parse_timeout_s
    page = httpx.get(f"{server.url}/metrics", trust_env=False).text
    counts = [
        (float(bound) / 1000, float(count))
        for bound, count in re.findall(
            r'^ingest_latency_ms_bucket\{le="([\d.]+|\+Inf)",stage="parser"\} (\S+)$', page, re.MULTILINE
        )
    ]
    longest_s = min(bound for bound, count in counts if count == counts[-1][1])
    if longest_s == float("inf"):
        longest_s = limit_s
    stage_s, slowest = max(
        (entry["took_s"], document["uri"])
        for document in documents.values()
        for entry in document["history"]
        if entry["event"] in ("parsed", "failed") and entry["took_s"] is not None
    )
    return [
        Figure("longest in a parser, at most", longest_s, "s", at_most=limit_s, note="as the histogram's bounds tell"),
        Figure("longest in `parse`, waiting for a parser included", stage_s, "s", note=slowest),
    ]


# ── the service ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=f"{server.url}/v1", timeout=600.0, trust_env=False)


def _upload(http: httpx.Client, files: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    """Send all of them; returns why some were refused."""
    refused: dict[str, str] = {}
    for start in range(0, len(files), IN_REQUEST):
        part = files[start : start + IN_REQUEST]
        sent = _post(
            http, "/namespaces/default/documents", data={"uri": [uri for uri, _ in part]},
            files=[("file", (uri.rpartition("/")[2], data)) for uri, data in part],
        )  # fmt: skip
        refused |= {one["uri"]: one["reason"] for one in sent["documents"] if one["state"] == "refused"}
    return refused


def _wait(http: httpx.Client) -> None:
    """Until nothing is in work any more."""
    while (counts := _get(http, "")["documents"]).get("received") or counts.get("chunked"):
        time.sleep(LOOK_S)


def _documents(http: httpx.Client) -> Iterator[dict[str, Any]]:
    cursor: str | None = ""
    while cursor is not None:
        page = _get(http, "/documents", limit=1000, cursor=cursor)
        yield from page["documents"]
        cursor = page["next"]


def _get(http: httpx.Client, route: str, **query: Any) -> Any:
    return http.get(f"/namespaces/default{route}", params=query).raise_for_status().json()


def _post(http: httpx.Client, route: str, **body: Any) -> Any:
    return http.post(route, **body).raise_for_status().json()


def _lives(server: Server, folder: Path) -> bool:
    holder = DataFolder(folder).holder()
    return server.process.poll() is None and holder is not None and holder.pid == server.process.pid


@contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """The MiB that the process and all it has started have resident, looked at until the block ends."""
    seen, ended = [resident_mib(pid)], threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            seen.append(resident_mib(pid))

    thread = threading.Thread(target=look, name="memory")
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
