"""`ragline tune` on a corpus where one leg is known to be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Shell

PAIRS = [
    line.split(" | ")
    for line in """\
A physician examines a patient. | when does a doctor look at someone ill
The automobile stands in the garage. | where is the car
Infants cry at night. | what do babies do in the dark
The vessel sank in a storm. | why did the boat go down
He purchased a residence. | who bought a house
The canine barked loudly. | noise made by a dog
Felines sleep all day. | how long do cats rest
The attorney won in court. | success of a lawyer
Our teacher retired in spring. | end of an educator's career
The infantry marched northwards. | where did soldiers walk
Rain is expected tomorrow. | weather forecast for the coming hours
The chef prepared a meal. | who cooked dinner
Wages rose sharply. | increase of salaries
The aircraft landed safely. | did a plane come down well
Children adore sweets. | what kids like to eat
The monarch was crowned. | beginning of a king's reign
Timber is cheap again. | price of wood
The film bored us. | was a movie dull
A thief stole jewellery. | criminal who took rings and necklaces
The mayor resigned. | politician of a city leaving office
Glaciers are melting. | warming makes ice disappear
Her spouse is Danish. | nationality of a husband
The novel sold well. | success of a book
Bees collect nectar. | insects gathering food from flowers""".splitlines()
]
"""Questions that share no word with their answer: only the dense leg can find it."""


@pytest.fixture(scope="module")
def parts(shell: Shell) -> Path:
    folder = shell.folder / "parts"
    folder.mkdir()
    lines = [{"_id": f"text-{n}", "text": text} for n, (text, _) in enumerate(PAIRS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = [{"question": question, "gold_docs": [f"text-{n}"]} for n, (_, question) in enumerate(PAIRS)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    return folder


def test_what_is_better_is_found_and_set(shell: Shell, parts: Path) -> None:
    weights = '{"keyword": 1, "dense": 0}'
    shell("namespaces", "create", "parts", "--fusion", "convex", "--weights", weights)
    report = shell("tune", str(parts), "-n", "parts", "--json").json
    assert (report["verdict"], report["applied"], report["questions"]) == ("better", False, len(PAIRS))
    assert report["held_out_gain"]["low"] > 0
    settings = shell("namespaces", "show", "parts", "--json").json["settings"]
    assert settings["fusion"]["weights"]["dense"] == 0, "nothing is set without being asked"

    told = shell("tune", str(parts), "-n", "parts", "--apply").out
    assert "Better." in told
    settings = shell("namespaces", "show", "parts", "--json").json["settings"]
    assert settings["fusion"] == report["chosen"]["fusion"]
    assert settings["candidates"] == report["chosen"]["candidates"]
    again = shell("tune", str(parts), "-n", "parts", "--apply").out
    assert "No difference: the interval holds zero." in again


def test_chunk_sizes_are_tried_in_namespaces_that_go_again(shell: Shell, parts: Path) -> None:
    report = shell("tune", str(parts), "-n", "parts", "--chunks", "64", "--json").json
    assert report["tried"] > 120
    names = [one["name"] for one in shell("namespaces", "list", "--json").json["namespaces"]]
    assert [name for name in names if name.startswith("tune-")] == []


def test_what_cannot_be_tuned_is_said(shell: Shell, parts: Path, tmp_path: Path) -> None:
    assert "holds no corpus.jsonl" in shell("tune", str(tmp_path), code=2).err
    lines = (parts / "questions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "questions.jsonl").write_text("".join(lines[:5]))
    assert "5 questions with judged documents are too few" in shell("tune", str(tmp_path), "-n", "parts", code=1).err
    (tmp_path / "corpus.jsonl").write_text((parts / "corpus.jsonl").read_text())
    assert "are too few" in shell("tune", str(tmp_path), "-n", "too-few", code=1).err
    assert "too-few" not in shell("namespaces", "list").out, "nothing was ingested for them"
    (tmp_path / "corpus.jsonl").unlink()
    assert "--chunks ingests anew" in shell("tune", str(tmp_path), "-n", "parts", "--chunks", "64", code=2).err


def test_documents_that_are_not_in_the_index_are_told(shell: Shell, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text((parts / "questions.jsonl").read_text())
    corpus = (parts / "corpus.jsonl").read_text()
    (tmp_path / "corpus.jsonl").write_text(corpus + json.dumps({"_id": "none", "text": " "}) + "\n")
    assert "1 documents are not in the index: none: " in shell("tune", str(tmp_path), "-n", "lacking").err
    report = shell("tune", str(tmp_path), "-n", "lacking", "--json").json
    assert [one["uri"] for one in report["failed"]] == ["none"]


def test_one_leg_keeps_its_own_scores(shell: Shell, parts: Path) -> None:
    for leg in ("keyword", "dense"):
        found = shell("search", "the vessel sank", "-n", "parts", "--leg", leg, "--json").json["passages"]
        assert [one["ranks"] for one in found] == [{leg: n} for n in range(1, len(found) + 1)]
        scores = [one["score"] for one in found]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] > 1 / 61, "no sum of ranks"
