"""What every server is given, and what it answers: the same for all, so that only the framework differs."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from bench.frameworks.embedder import MiniLM

CANDIDATES = 50
"""Hits fetched per leg before fusion: as many as Ragline fetches by default (query.candidates)."""


class Query(BaseModel):
    query: str
    top_k: int = 10


class Found(BaseModel):
    id: str
    text: str


class Answer(BaseModel):
    """Best first."""

    result: list[Found]


@dataclass(frozen=True, slots=True)
class Passage:
    """`text` is what both legs search: title and text of the corpus line."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Given:
    """Shapes: `vectors` float32 (passages, dim), unit length, in the order of `passages`."""

    passages: list[Passage]
    vectors: NDArray[np.float32]
    model: MiniLM
    port: int


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpus", type=Path, required=True, help='JSONL: {"id": …, "title": …, "text": …} a line')
    parser.add_argument("--vectors", type=Path, required=True, help=".npy: a row for each line of the corpus")
    parser.add_argument("--model", type=Path, required=True, help="folder with one .onnx and tokenizer.json")
    parser.add_argument("--port", type=int, required=True)
    return parser.parse_args()


def given() -> Given:
    """What the command line names, loaded. Raises ValueError: vectors of another corpus."""
    said = arguments()
    passages = [_passage(line) for line in said.corpus.read_text("utf-8").split("\n") if line]
    vectors = np.load(said.vectors)
    if len(vectors) != len(passages):
        raise ValueError(
            f"{said.vectors} has {len(vectors)} rows for {len(passages)} passages; make both from one corpus."
        )
    return Given(passages, vectors, MiniLM(said.model), said.port)


def _passage(line: str) -> Passage:
    record = json.loads(line)
    return Passage(record["id"], f"{record.get('title') or ''}\n{record['text']}".strip())
