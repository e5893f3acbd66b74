"""The passages and vectors of one corpus, written out for whoever else is to search them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import frameworks
from bench.ground import running
from bench.serving.corpora import NAMESPACE
from ragline.chunking import search_text


@dataclass(frozen=True, slots=True)
class Handed:
    """Files that a framework's server reads. `vectors`: a row for each line of `corpus`."""

    corpus: Path
    vectors: Path
    model: Path


async def hand(folder: Path, work: Path) -> Handed:
    """Write out every chunk that the data folder serves, with the vector that it was embedded to."""
    handed = Handed(work / "passages.jsonl", work / "passages.npy", frameworks.model_folder(work))
    parts = []
    async with running(folder) as system:
        namespace = await system.namespaces.get(NAMESPACE)
        with handed.corpus.open("w", encoding="utf-8") as lines:
            after = ""
            while page := await system.documents.page(NAMESPACE, after=after, most=500, state=None):
                after = page[-1].id
                for one in page:
                    if one.live is None or one.live_blob is None or not one.chunks:
                        continue
                    content = await system.contents.get(namespace, one, one.live_blob, one.live)
                    space = system.embedder.space
                    found = await system.contents.vectors(namespace, one, one.live_blob, one.live, space, one.chunks)
                    assert content is not None
                    assert found is not None
                    parts.append(found)
                    for chunk in content.chunks(one, one.live):
                        text = search_text(one.title, chunk.headings, chunk.text)
                        lines.write(json.dumps({"id": chunk.id, "title": one.title, "text": text}) + "\n")
    await asyncio.to_thread(np.save, handed.vectors, np.concatenate(parts))
    return handed
