"""Settings every test shares."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from ragline.embedders.local import LocalEmbedder

# Whoever runs us in the background may have SIGINT ignored, and the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts on time, so neither does Hypothesis: a busy machine is not a failure.
settings.register_profile("ragline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ragline")


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEmbedder]:
    """The default embedder, loaded once. It may be called from any event loop, so every test can share it."""
    cache_dir = tmp_path_factory.mktemp("embedder")
    embedder = asyncio.run(LocalEmbedder.load("all-MiniLM-L6-v2", source="package", cache_dir=cache_dir))
    yield embedder
    asyncio.run(embedder.aclose())
