"""The engines by the names that the command line knows, one file a vendor.

A vendor's package is imported when its engine opens, so that those not asked for may be missing.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.vector_engines.engine import Engine
from bench.vector_engines.engines.faiss import Faiss
from bench.vector_engines.engines.lancedb import Lance
from bench.vector_engines.engines.qdrant_edge import Qdrant
from bench.vector_engines.engines.usearch import Usearch
from bench.vector_engines.engines.zvec import Zvec

ENGINES: dict[str, Callable[[], Engine]] = {
    "zvec": Zvec,
    "qdrant": Qdrant,
    "lancedb": Lance,
    "usearch": Usearch,
    "faiss": Faiss,
}
