"""A day of traffic on a simulated clock: what the hot cache answers, what an edge before it does, and whether any of it is wrong.

Registry, guard, query path, cache, cold tier and the worker that purges are the real ones; the store is a dictionary, the edge
`bench.edge_model`. Requests come by a Poisson process. Each query has ten documents of its own, drawn once; a search finds
them all.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.cache.corpus import NAME, NOBODY, Corpus
from bench.edge_model import ModelEdge
from ragline.caches.memory import MemoryCache
from ragline.cold_tier import ColdTier
from ragline.popularity.memory import MemoryPopularity
from ragline.purging import LOOK_S, PurgeWorker
from ragline.registry.edge_purges import EdgePurges
from ragline.settings import CacheSettings, EdgeSettings
from ragline.types import Retrieved, SearchRequest
from tests.clock import HandClock

TOP_K = 10
DISTINCT = 100_000
UPDATED_AN_HOUR = 0.01


@dataclass(frozen=True, slots=True)
class Day:
    """rate: queries a second.   zipf: the exponent."""

    rate: float
    hours: float
    documents: int
    zipf: float

    async def run(self, *, edge: bool) -> int:
        """How many answers were wrong, as an exit status."""
        with tempfile.TemporaryDirectory(prefix="ragline-bench-") as folder:
            clock = HandClock()
            cache = MemoryCache(clock, entries=10_000, max_bytes=1 << 28)
            corpus = await Corpus.open(Path(folder), clock, cache, CacheSettings(audit_share=0.0), public=edge)
            uris = [f"d{n}" for n in range(self.documents)]
            for start in range(0, self.documents, 500):
                await corpus.update(uris[start : start + 500])
            clock.move(2)
            site = Site(corpus, clock, edge=edge)
            try:
                await self._pass(site, uris)
                site.show(
                    f"{self.hours:g} h at {self.rate:g}/s, Zipf {self.zipf:g} over {DISTINCT} queries, {self.documents} documents"
                )
            finally:
                await corpus.aclose()
        return int(site.seen["wrong"] > 0)

    async def _pass(self, site: Site, uris: list[str]) -> None:
        draw, numbers = random.Random(1), np.random.default_rng(1)
        weights = 1.0 / np.arange(1, DISTINCT + 1) ** self.zipf
        weights /= weights.sum()
        clock, words = site.clock, site.corpus.words
        until, next_update = clock.now() + self.hours * 3600, 0.0
        every_s = 3600 / (self.documents * UPDATED_AN_HOUR)
        while True:
            for number in numbers.choice(DISTINCT, size=10_000, p=weights):
                clock.move(draw.expovariate(self.rate))
                if clock.now() >= until:
                    return
                if clock.now() >= next_update:
                    next_update = clock.now() + draw.expovariate(1 / every_s)
                    await site.update(draw.choice(uris))
                query = f"q{number}"
                if query not in words.documents:
                    words.documents[query] = [site.corpus.ids[uri] for uri in draw.sample(uris, TOP_K)]
                await site.ask(query)


class Site:
    """Readers → edge, where there is one → cold tier → hot cache. `seen`: what came of it, and of the purges."""

    def __init__(self, corpus: Corpus, clock: HandClock, *, edge: bool) -> None:
        self.corpus, self.clock = corpus, clock
        self.seen: Counter[str] = Counter()
        self._purges = EdgePurges(corpus.database, clock)
        self._looks: list[float] = []
        """When the purges are looked for, in order: half a second after a change, and when they are due again."""
        self._unpurged: set[str] = set()
        """Changed, and the edge was not told yet."""
        settings = EdgeSettings()
        self._again_s = settings.purge_again_s
        self._edge = ModelEdge(clock) if edge else None
        self._tier = ColdTier(
            search=corpus.search, purges=self._purges, edge=self._edge, popularity=MemoryPopularity(clock),
            settings=settings, clock=clock,
        )  # fmt: skip
        self._purger = PurgeWorker(
            purges=self._purges, edge=self._edge, database=corpus.database, clock=clock, settings=settings
        )

    async def update(self, uri: str) -> None:
        await self.corpus.update([uri])
        self.seen["updates"] += 1
        if self._edge:
            self._unpurged.add(self.corpus.ids[uri])
            self._looks = sorted(
                [*self._looks, self.clock.now() + LOOK_S, self.clock.now() + 2 * LOOK_S + self._again_s]
            )

    async def ask(self, query: str) -> None:
        while self._looks and self._looks[0] <= self.clock.now():
            self._looks.pop(0)
            while await self._purger.round():
                pass
            self._unpurged.clear()
        self.seen["asked"] += 1
        stored = self._edge.get(query) if self._edge else None
        if stored is None:
            request = SearchRequest(query, NAME, NOBODY, TOP_K, legs=("keyword",))
            published = await self._tier.answer(request)
            if self._edge:
                self._edge.put(query, published)
            found = published.retrieved
            self.seen["hot" if found.cached else "searched"] += 1
        else:
            found = stored.retrieved
            self.seen["edge"] += 1
        self._judge(found, from_edge=stored is not None)

    def _judge(self, found: Retrieved, *, from_edge: bool) -> None:
        """By the dictionary that is the store: what it holds is what is live."""
        rows = self.corpus.words.rows
        old = {
            p.hit.chunk.document
            for p in found.passages
            if rows[p.hit.chunk.document].chunk.content != p.hit.chunk.content
        }
        if from_edge and old and old <= self._unpurged:
            self.seen["old"] += 1
        elif old:
            self.seen["wrong"] += 1

    def show(self, title: str) -> None:
        seen, asked = self.seen, self.seen["asked"]
        reached = seen["hot"] + seen["searched"]
        assert self.corpus.tier
        print(f"{title}, {seen['updates']} updates: {asked} queries")
        if self._edge:
            print(
                f"edge hit ratio {seen['edge'] / asked:.1%}; old within {LOOK_S:g} s, before the purge: {seen['old']}"
            )
        print(
            f"hot hit ratio {seen['hot'] / reached:.1%} of {reached} that came to it; searched {seen['searched'] / asked:.1%}"
        )
        print(f"wrong answers {seen['wrong']}")
        print({outcome: count for (_, outcome), count in sorted(self.corpus.tier.counts.items())})
