"""The floor: the same raw parts behind a bare Starlette route, in a process of its own.

    python -m bench.serving.bare FOLDER NAMESPACE

One embed, Tantivy and the vectors side by side, RRF, JSON. No keys, no guard, no deadlines, no metrics, no filters, no
batching over callers; the same loop and the same HTTP parser. Prints its URL as `ragline up --json` does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ragline.build import open_embedder
from ragline.cli.server import BACKLOG, listen
from ragline.cli.up import fast_loop
from ragline.clock import SystemClock
from ragline.connections.database import Database, sqlite_url
from ragline.fusion import fuse
from ragline.keywords.tantivy import TantivyKeywordIndex
from ragline.registry.migrations import SCHEMA
from ragline.registry.namespaces import Namespaces
from ragline.settings import Settings
from ragline.types import Fusion, Scope
from ragline.vectors.faiss import FaissVectorStore

CANDIDATES, TOP_K = 50, 10


async def serve(folder: Path, name: str) -> None:
    database = await Database.open(sqlite_url(folder / "registry.sqlite"), SCHEMA)
    epoch = (await Namespaces(database, SystemClock()).get(name)).epoch
    await database.aclose()
    embedder = await open_embedder(Settings(data_dir=folder))
    keywords, vectors = TantivyKeywordIndex(folder / "keywords"), FaissVectorStore(folder / "vectors")
    scope, fusion = Scope(), Fusion()

    async def dense(query: str) -> list[object]:
        (vector,) = await embedder.embed([query], purpose="query")
        return list(await vectors.search(epoch.vectors, vector, top_k=CANDIDATES, scope=scope))

    async def search(request: Request) -> JSONResponse:
        query = (await request.json())["query"]
        words, near = await asyncio.gather(
            keywords.search(epoch.keywords, query, top_k=CANDIDATES, scope=scope), dense(query)
        )
        hits = fuse({"keyword": words, "dense": near}, fusion, top_k=TOP_K)  # type: ignore[dict-item]
        return JSONResponse([{"id": hit.chunk.id, "text": hit.chunk.text, "score": hit.score} for hit in hits])

    app = Starlette(routes=[Route("/search", search, methods=["POST"])])
    with listen("127.0.0.1", 0) as listener:
        await asyncio.gather(
            keywords.search(epoch.keywords, "open", top_k=1, scope=scope), dense("open")
        )  # both are read on their first search
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", backlog=BACKLOG))
        print(json.dumps({"url": f"http://127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        runner.run(serve(Path(sys.argv[1]), sys.argv[2]))
