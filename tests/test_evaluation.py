"""Every published figure is computed by hand here once."""

import json
import math
from pathlib import Path

import pytest

from ragline.errors import InvalidRequest
from ragline.evaluation import (
    Query,
    bootstrap,
    hit,
    holds,
    load_judged,
    load_questions,
    ndcg,
    paired_bootstrap,
    recall,
    reciprocal_rank,
    spread,
)

GRADES = {"a": 3.0, "b": 1.0, "c": 2.0}


def test_ndcg_gains_are_linear_in_the_grade() -> None:
    got = 1.0 / 1 + 0 + 3.0 / math.log2(4)  # b, a stranger, a
    best = 3.0 / 1 + 2.0 / math.log2(3) + 1.0 / math.log2(4)
    assert ndcg(["b", "x", "a"], GRADES, k=10) == pytest.approx(got / best)


def test_ndcg_ideal_is_cut_at_k_too() -> None:
    assert ndcg(["a", "x"], GRADES, k=1) == 1.0
    assert ndcg(["x", "a"], GRADES, k=1) == 0.0


def test_the_best_order_is_one_and_nothing_relevant_is_zero() -> None:
    assert ndcg(["a", "c", "b"], GRADES, k=10) == pytest.approx(1.0)
    assert ndcg(["x", "y"], GRADES, k=10) == 0.0
    assert ndcg(["a"], {}, k=10) == recall(["a"], {}, k=10) == 0.0


def test_recall_hit_and_reciprocal_rank() -> None:
    ranking = ["x", "b", "y", "a"]
    assert recall(ranking, GRADES, k=3) == pytest.approx(1 / 3)
    assert recall(ranking, GRADES, k=10) == pytest.approx(2 / 3)
    assert reciprocal_rank(ranking, GRADES) == 0.5
    assert reciprocal_rank(["x"], GRADES) == 0.0
    assert (hit(ranking, GRADES, k=1), hit(ranking, GRADES, k=2)) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("It rose to nearly $12 a barrel.", "nearly $12", True),
        ("The Eiffel Tower, in Paris", "eiffel tower", True),
        ("the 1973 oil crisis", "oil crises", False),
        ("Montreal", "real", False),
        ("a “quoted” word", "Quoted", True),
        ("東京は日本の首都です。", "日本の首都", True),
        ("anything", "the", False),
        ("", "x", False),
    ],
)
def test_an_answer_is_found_in_whole_normalised_words(text: str, answer: str, found: bool) -> None:
    assert holds(text, ["nowhere to be seen", answer]) is found


def test_a_bootstrap_interval_holds_its_mean_and_repeats() -> None:
    values = [0.0, 1.0] * 50
    interval = bootstrap(values, resamples=2_000)
    assert interval == bootstrap(values, resamples=2_000)
    assert interval.mean == 0.5
    assert interval.n == 100
    assert interval.low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)  # the standard error of 100 coin tosses is .05
    assert interval.high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)


def test_a_certain_value_has_no_width() -> None:
    assert bootstrap([0.25] * 7, resamples=100).low == bootstrap([0.25] * 7, resamples=100).high == 0.25


def test_pairing_takes_out_what_queries_have_in_common() -> None:
    easy_and_hard = [0.0, 1.0] * 50
    better = [value + 0.1 for value in easy_and_hard]
    difference = paired_bootstrap(better, easy_and_hard, resamples=500)
    assert difference.low == pytest.approx(0.1)
    assert difference.high == pytest.approx(0.1)


def test_intervals_refuse_what_has_none() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])
    with pytest.raises(ValueError, match="1 values cannot be paired with 2"):
        paired_bootstrap([1.0], [1.0, 2.0])


def test_a_sample_is_spread_over_the_whole() -> None:
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread([1, 2], None) == spread([1, 2], 5) == [1, 2]


# ── folders ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_beir(folder: Path, *, queries: str, qrels: str, name: str = "test") -> Path:
    (folder / "qrels").mkdir()
    (folder / "queries.jsonl").write_text(queries, "utf-8")
    (folder / "qrels" / f"{name}.tsv").write_text(qrels, "utf-8")
    return folder


def test_judged_queries_keep_positive_grades_and_leave_the_unjudged_out(tmp_path: Path) -> None:
    folder = write_beir(
        tmp_path,
        queries='{"_id": "1", "text": "one"}\n\n{"_id": "2", "text": "two"}\n{"_id": "3", "text": "three"}\n',
        qrels="query-id\tcorpus-id\tscore\n1\td 1\t2\n1\td2\t0\n2\td2\t0\n3\td3\t1\n",
    )
    assert load_judged(folder) == [Query("1", "one", {"d 1": 2.0}), Query("3", "three", {"d3": 1.0})]


def test_qrels_without_a_header_and_by_another_name(tmp_path: Path) -> None:
    folder = write_beir(tmp_path, queries='{"_id": "1", "text": "one"}', qrels="1\td\t1\n", name="dev")
    assert load_judged(folder)[0].grades == {"d": 1.0}
    (folder / "qrels" / "train.tsv").write_text("1\td\t1\n", "utf-8")
    with pytest.raises(InvalidRequest, match=r"found: dev\.tsv, train\.tsv"):
        load_judged(folder)


@pytest.mark.parametrize(
    ("queries", "qrels", "message"),
    [
        ('{"_id": "1", "text": "x"}\n{"_id": 2}', "1\td\t1", r"queries\.jsonl: line 2: `_id` must be a string"),
        ('{"_id": "1", "text": ""}', "1\td\t1", r"queries\.jsonl: line 1: `text` must be a string"),
        ('{"_id": "1", "text": "x"}\n{oops', "1\td\t1", r"queries\.jsonl: line 2: not valid JSON"),
        ("[1]", "1\td\t1", r"queries\.jsonl: line 1: not a JSON object"),
        ('{"_id": "1", "text": "x"}', "1\td\t1\n1 e 1", r"test\.tsv: line 2: not a query, a document and a grade"),
        ('{"_id": "1", "text": "x"}', "1\td\tmany", r"test\.tsv: line 1: not a query, a document and a grade"),
        ('{"_id": "1", "text": "x"}', "2\td\t1", r"queries\.jsonl: no query has a relevant document"),
    ],
)
def test_a_wrong_line_is_named_with_its_file(tmp_path: Path, queries: str, qrels: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        load_judged(write_beir(tmp_path, queries=queries, qrels=qrels))


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"questions\.jsonl: No such file"):
        load_questions(tmp_path / "questions.jsonl")
    with pytest.raises(InvalidRequest, match=r"qrels: one \.tsv file is needed.*found: none"):
        load_judged(tmp_path)
    (tmp_path / "questions.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match=r"questions\.jsonl: not UTF-8 text"):
        load_questions(tmp_path / "questions.jsonl")
    (tmp_path / "questions.jsonl").write_text("\n")
    with pytest.raises(InvalidRequest, match=r"questions\.jsonl: the file is empty"):
        load_questions(tmp_path / "questions.jsonl")


def load(tmp_path: Path, question: dict[str, object]) -> Query:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": "Who?"} | question), "utf-8")
    return load_questions(path)[0]


def test_questions_with_gold_documents(tmp_path: Path) -> None:
    query = load(tmp_path, {"id": "q", "answers": ["Ada", "word " * 13], "gold_docs": ["d1", "d2"]})
    assert query == Query("q", "Who?", {"d1": 1.0, "d2": 1.0}, ("Ada",))
    assert not load(tmp_path, {"answers": [], "unanswerable": True}).answerable


def test_evidence_names_the_documents_where_gold_documents_do_not(tmp_path: Path) -> None:
    evidence = [{"filename": "a.md", "text": "Ada did."}]
    assert load(tmp_path, {"evidence": evidence}) == Query("1", "Who?", {"a.md": 1.0}, (), ("Ada did.",))
    assert load(tmp_path, {"evidence": evidence, "gold_docs": []}).grades == {}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"question": ""}, "line 1: `question` must be a string"),
        ({"answers": "Ada"}, "line 1: `answers` must be a list of strings"),
        ({"evidence": ["a.md"]}, "line 1: `evidence` must be a list of objects"),
    ],
)
def test_a_wrong_question_is_named(tmp_path: Path, question: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        load(tmp_path, question)
