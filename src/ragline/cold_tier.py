"""The cold tier: which answers of public namespaces an edge may store, for how long, and by which keys it drops them.

An answer carries the key of its namespace and of each document in it. Whatever changes what a reader may see of a document
writes down a purge of its key with the change (`registry.rows.move_visible`), so what is stored must have been found either
wholly before such a change or wholly after it: the namespace must stand as it did when the search began.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from ragline import metrics
from ragline.clock import Clock
from ragline.errors import EngineError
from ragline.protocols import Edge, Popularity, Searcher
from ragline.registry.edge_purges import EdgePurges, Stand
from ragline.settings import EdgeSettings
from ragline.types import Retrieved, SearchRequest

NO_STORE = "no-store"

COUNT_WITHIN_S = 0.05
"""For counting a query; one that is not counted is answered all the same."""


@dataclass(frozen=True, slots=True)
class Published:
    """An answer to somebody without a key. `headers`: `Cache-Control` at least.

    stored: whether the edge may keep it.
    """

    retrieved: Retrieved
    headers: Mapping[str, str] = field(default_factory=lambda: {"Cache-Control": NO_STORE})
    stored: bool = False


class ColdTier:
    """`edge` None: nothing is ever stored, because nothing would be purged."""

    def __init__(
        self, *, search: Searcher, purges: EdgePurges, edge: Edge | None, popularity: Popularity, settings: EdgeSettings,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._search = search
        self._purges = purges
        self._edge = edge
        self._popularity = popularity
        self._settings = settings
        self._clock = clock

    async def answer(self, request: SearchRequest) -> Published:
        """Raises as `Search.search`."""
        if self._edge is None or request.min_sequence is not None or request.groups:
            return Published(await self._search.search(request))
        before = await self._stand(request.namespace)
        popular = before is not None and await self._popular(before, request)
        found = await self._search.search(request)
        if before is None or not popular or found.degraded or found.epoch != before.epoch:
            return Published(found)
        if await self._stand(request.namespace) != before:
            return Published(found)  # something has moved under the search: the next one may be stored
        keys = [namespace_key(before.uid), *(document_key(p.hit.chunk.document) for p in found.passages)]
        labels = self._edge.labels(list(dict.fromkeys(keys)), namespace=before.uid, visible=before.visible)
        if labels is None:
            metrics.edge_answers_total.labels("too many keys").inc()
            return Published(found)
        lasts_s = self._lasts_s(found)
        if lasts_s < 1:
            return Published(found)
        metrics.edge_answers_total.labels("may be stored").inc()
        # Browsers ask again each time (and get a 304): no purge reaches them.
        lasting = f"public, max-age=0, s-maxage={lasts_s}"
        return Published(found, {"Cache-Control": lasting, **labels}, stored=True)

    def _lasts_s(self, found: Retrieved) -> int:
        """How long it may be stored: what the hot cache has had for a while, for so much less."""
        age_s = self._clock.now() - found.seen.at if found.cached and found.seen else 0.0
        return int(self._settings.s_maxage_s - max(0.0, age_s))

    async def _stand(self, namespace: str) -> Stand | None:
        """None: it is not public any more, is gone, or nobody can say."""
        try:
            stand = await self._purges.stand(namespace)
        except EngineError:
            return None
        return stand if stand is not None and stand.public else None

    async def _popular(self, stand: Stand, request: SearchRequest) -> bool:
        try:
            async with asyncio.timeout(COUNT_WITHIN_S):
                seen = await self._popularity.seen(question(stand.uid, request))
        except (EngineError, TimeoutError):
            metrics.edge_answers_total.labels("not counted").inc()
            return False
        return seen >= self._settings.popular_after


def question(uid: str, request: SearchRequest) -> str:
    """The same for the same question: white space does not count, and neither does the order of filters and legs."""
    words = " ".join(request.query.split())
    filters = json.dumps(request.filters, sort_keys=True, default=str)
    told = [uid, words, request.top_k, filters, sorted(request.legs), request.distinct]
    return hashlib.blake2b(json.dumps(told).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def namespace_key(uid: str) -> str:
    return f"n-{uid}"


def document_key(id: str) -> str:
    return f"d-{id}"
