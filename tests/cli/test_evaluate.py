"""`ragline evaluate` on collections small enough to know the figures beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from ragline.cli import trial
from ragline.cli.connection import Connection
from ragline.cli.failures import NotReachable, Refused
from ragline.evaluation import Query

from .conftest import Shell

CORPUS = {
    "tea/1": ("Tea", "Tea is brewed from the leaves of the Camellia plant. It is drunk hot."),
    "bridge": ("Bridge", "The bridge over the river Spree was built in 1896 from red brick."),
    "moon": ("Moon", "The moon causes the tides of the oceans on Earth."),
    "bread": ("Bread", "Bread is baked from flour, water, salt and yeast."),
    "empty": ("", ""),
}


def write_lines(path: Path, objects: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in objects), "utf-8")


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    write_lines(folder / "corpus.jsonl", [{"_id": id, "title": t, "text": text} for id, (t, text) in CORPUS.items()])
    return folder


@pytest.fixture(scope="module")
def judged(shell: Shell) -> Path:
    folder = write_corpus(shell.folder / "Tiny BEIR")
    queries = {"q1": "what is tea brewed from", "q2": "when was the Spree bridge built", "q3": "not judged"}
    write_lines(folder / "queries.jsonl", [{"_id": id, "text": text} for id, text in queries.items()])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\ttea/1\t2\nq1\tbread\t0\nq2\tbridge\t1\n"
    )
    return folder


@pytest.fixture(scope="module")
def asked(shell: Shell) -> Path:
    folder = write_corpus(shell.folder / "questions")
    write_lines(
        folder / "questions.jsonl",
        [
            {"question": "When was the bridge over the Spree built?", "answers": ["1896"], "gold_docs": ["bridge"]},
            {"question": "What causes the tides?", "answers": ["the Moon"], "gold_docs": ["moon"]},
            {"question": "Who invented the transistor radio?", "answers": [], "gold_docs": [], "unanswerable": True},
        ],
    )
    return folder


def test_a_beir_folder(shell: Shell, judged: Path) -> None:
    report = shell("evaluate", str(judged), "--json").json
    assert report["namespace"] == "eval-tiny-beir"
    assert report["queries"] == 2, "what has no judgment is not asked"
    perfect = {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    for leg in ("keyword", "dense", "hybrid"):
        assert report["legs"][leg] == dict.fromkeys(("nDCG@10", "Recall@10", "Recall@100", "MRR"), perfect)
    assert report["gains"]["over"]["dense"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 2}
    assert [trouble["uri"] for trouble in report["failed"]] == ["empty"]


def test_a_second_run_uploads_only_what_is_not_indexed(shell: Shell, judged: Path) -> None:
    before = shell("namespaces", "show", "eval-tiny-beir", "--json").json
    shell("evaluate", str(judged), "--limit", "1")
    after = shell("namespaces", "show", "eval-tiny-beir", "--json").json
    assert after["sequence"] == before["sequence"] + 1, "the empty one is tried again"


def test_the_table_is_for_people(shell: Shell, judged: Path) -> None:
    done = shell("evaluate", str(judged), "--namespace", "eval-tiny-beir")
    assert "hybrid\t1.000 [1.000, 1.000]" in done.out
    assert "hybrid − keyword, nDCG@10: +0.000 [+0.000, +0.000]" in done.out
    assert "1 documents are not in the index: empty: empty: " in done.err


def test_questions_and_their_answers(shell: Shell, asked: Path) -> None:
    report = shell("evaluate", str(asked), "--answers", "--json").json
    assert report["queries"] == 3
    found = report["legs"]["hybrid"]
    assert list(found) == ["hit@1", "hit@5", "hit@10", "Recall@10", "MRR", "answer@5"]
    assert found["hit@5"] == found["answer@5"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert {name: (one["mean"], one["n"]) for name, one in report["answers"].items()} == {
        "answered": (1.0, 2), "answered when retrieved": (1.0, 2), "refusal precision": (1.0, 1),
        "refusal recall": (1.0, 1),
    }  # fmt: skip


def test_what_is_wrong_is_named(shell: Shell, judged: Path, tmp_path: Path) -> None:
    assert "has judged documents, not answers" in shell("evaluate", str(judged), "--answers", code=1).err
    assert "questions.jsonl: No such file or directory" in shell("evaluate", str(tmp_path), code=1).err
    write_lines(tmp_path / "questions.jsonl", [{"question": "Who?", "gold_docs": ["x"]}])
    assert "corpus.jsonl: No such file or directory" in shell("evaluate", str(tmp_path), code=1).err


# ── asking again ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Server:
    """Gives what it was told, in turn, then whole results."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    async def post(self, *path: str, body: Any) -> Any:
        self.asked.append(body)
        given = self.answers.pop(0) if self.answers else result()
        if isinstance(given, Exception):
            raise given
        return {"results": [given] * len(body)} if isinstance(body, list) else given


def result(*degraded: str) -> dict[str, Any]:
    return {"passages": [{"uri": "d", "text": "t"}, {"uri": "d", "text": "u"}], "degraded": list(degraded)}


def refused(*, retryable: bool) -> Refused:
    return Refused({"detail": "no", "retryable": retryable}, http_status=503)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PAUSE_S", 0.0)


async def search(server: Server, *, queries: int = 1) -> list[trial.Ranked]:
    asked = [Query(str(n), f"query {n}", {"d": 1.0}) for n in range(queries)]
    return await trial.search_all(cast(Connection, server), "n", asked, "hybrid", lambda *_: None)


async def test_queries_go_in_batches_and_come_back_in_order() -> None:
    server = Server()
    found = await search(server, queries=trial.QUERIES_A_REQUEST + 1)
    assert [len(body) for body in server.asked] == [trial.QUERIES_A_REQUEST, 1]
    assert [one.query.id for one in found] == [str(n) for n in range(trial.QUERIES_A_REQUEST + 1)]
    assert found[0].documents == ("d",), "a document counts at its best passage only"


@pytest.mark.parametrize("trouble", [result("dense"), refused(retryable=True)], ids=["degraded", "refused"])
async def test_what_is_not_whole_is_asked_for_again(trouble: Any) -> None:
    server = Server(trouble, trouble, result())
    assert (await search(server))[0].documents == ("d",)
    assert [type(body) for body in server.asked] == [list, dict, dict]


async def test_it_gives_up_rather_than_mislead() -> None:
    with pytest.raises(NotReachable, match=r"left out a step each of the 10 times query 0"):
        await search(Server(*[result("dense")] * 11))
    with pytest.raises(Refused):
        await search(Server(*[refused(retryable=True)] * 11))


async def test_a_plain_no_is_not_repeated() -> None:
    server = Server(refused(retryable=False))
    with pytest.raises(Refused):
        await search(server)
    assert len(server.asked) == 1


def test_answers_are_scored_by_hand() -> None:
    yes, no = Query("1", "?", {"d": 1.0}, ("Ada",)), Query("2", "?", {}, answerable=False)
    scores = trial.answer_scores(
        [
            trial.Answered(yes, "It was Ada.", refused=False, retrieved=True),
            trial.Answered(yes, "Nothing is said.", refused=True, retrieved=True),
            trial.Answered(yes, "Bob.", refused=False, retrieved=False),
            trial.Answered(no, "Nothing is said.", refused=True, retrieved=False),
            trial.Answered(no, "Bob.", refused=False, retrieved=False),
        ]
    )
    assert scores == {
        "answered": [1.0, 0.0, 0.0], "answered when retrieved": [1.0, 0.0],
        "refusal precision": [0.0, 1.0], "refusal recall": [1.0, 0.0],
    }  # fmt: skip
