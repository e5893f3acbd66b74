"""How the tests are spread over two processes: a file at a time, and those that share a large server in one process.

Each process has its own servers, so what asks the same large one goes together: else both would start it. They are the
largest unit, and so the first (xdist orders units by their number of tests).
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

LARGE = ("test_fleet", "milvus", "elasticsearch", "chunklogs")
"""What is in the names of files that ask Milvus, Elasticsearch or Kafka: between 300 MB and 1 GB each, up to 20 s to start."""


class Spread(LoadScopeScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "large servers" if any(part in file for part in LARGE) else file
