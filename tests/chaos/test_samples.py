from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from ragline.chaos.load_report import Slo, cautions, page
from ragline.chaos.plots import Band, over_time, percentile_curve
from ragline.chaos.samples import Kind, Lost, Sample, Samples

HUNDRED = Samples([Sample(n / 10, float(n + 1), 200) for n in range(100)], for_s=10.0)
"""Latencies of 1 to 100 ms, ten a second."""


def test_a_percentile_is_a_latency_that_was_seen() -> None:
    assert [HUNDRED.percentile(percent) for percent in (0, 50, 95, 99, 99.9, 100)] == [1, 50, 95, 99, 100, 100]
    assert HUNDRED.mean_ms == 50.5
    assert Samples([], for_s=1).percentile(50) is None
    assert Samples([], for_s=1).mean_ms is None


def test_failures_are_in_no_percentile_but_have_missed_every_limit() -> None:
    quick = [Sample(0, 1.0, 503) for _ in range(10)]
    lost = [Sample(0, 0.0, 0, lost=Lost.UNSENT), Sample(0, 30_000.0, 0, lost=Lost.TIMEOUT)]
    samples = Samples([*HUNDRED, *quick, *lost], for_s=10)
    assert samples.percentile(50) == 50
    assert samples.failed == 12
    assert samples.failed_share == pytest.approx(12 / 112)
    assert HUNDRED.within(95) == 0.95
    assert samples.within(95) == pytest.approx(95 / 112)
    assert samples.outcomes() == {"200": 100, "503": 10, "unsent": 1, "timeout": 1}
    assert Samples([], for_s=1).within(1) is None


def test_parts_by_time_and_kind() -> None:
    part = HUNDRED.between(2.0, 3.0)
    assert [one.took_ms for one in part] == list(range(21, 31))
    assert part.for_s == 1.0
    mixed = Samples([*HUNDRED, Sample(1.0, 5.0, 200, ("dense",), kind=Kind.ANSWER)], for_s=10)
    assert [one.degraded for one in mixed.of(Kind.ANSWER)] == [("dense",)]
    assert mixed.degraded() == {"dense": 1}
    assert len(mixed.of(Kind.SEARCH, Kind.ANSWER)) == 101


def test_a_series_has_a_step_where_nothing_was_due() -> None:
    samples = Samples([Sample(0.5, 10, 200), Sample(0.6, 30, 200, cached=True), Sample(2.5, 5, 500)], for_s=3)
    first, gap, last = samples.series()
    assert (first.due, first.failed, first.cached, first.p50_ms, first.most_ms) == (2, 0, 1, 10, 30)
    assert (gap.at_s, gap.due, gap.p95_ms) == (1.0, 0, None)
    assert (last.due, last.failed, last.p50_ms) == (1, 1, None)


def test_reports_say_the_same_figures() -> None:
    out = json.loads(json.dumps(HUNDRED.as_json()))
    assert (out["due"], out["answered"], out["rate"]) == (100, 100, 10.0)
    assert out["percentiles_ms"]["p95"] == 95
    assert (
        HUNDRED.markdown().splitlines()[2] == "| search | 100 | 0 | 50.0 | 75.0 | 90.0 | 95.0 | 99.0 | 100.0 | 100.0 |"
    )


def test_a_promise_is_judged_over_all_that_was_due() -> None:
    assert Slo(p95_ms=95).missed(HUNDRED) == []
    assert "only 94.00%" in Slo(p95_ms=94).missed(HUNDRED)[0]
    failing = Samples([*HUNDRED, Sample(0, 1.0, 503)], for_s=10)
    assert "only 94.06%" in Slo(p95_ms=95).missed(failing)[0]
    assert Slo(errors=0.01).missed(failing) == []
    assert "0.99% failed" in Slo(errors=0.0).missed(failing)[0]
    slow_answers = Samples([*HUNDRED, *(Sample(0, 900.0, 200, kind=Kind.ANSWER) for _ in range(100))], for_s=10)
    assert Slo(p95_ms=95).missed(slow_answers) == []
    assert "no search was due" in Slo(p95_ms=95).missed(Samples([], for_s=1))[0]


def test_a_generator_that_was_late_itself_says_so() -> None:
    assert cautions(HUNDRED) == []
    late = Samples([Sample(n / 10, 50.0, 200, late_ms=30.0) for n in range(10)], for_s=1)
    assert "30 ms late" in cautions(late)[0]
    assert "1 requests were due and not sent" in cautions(Samples([Sample(0, 0, 0, lost=Lost.UNSENT)], for_s=1))[0]


@pytest.mark.parametrize(
    "samples",
    [
        HUNDRED, Samples([], for_s=0), Samples([Sample(0, 0.0, 200)], for_s=0.1),
        Samples([Sample(n, 1e5, 200 if n % 2 else 503) for n in range(5000)], for_s=5000),
        Samples([Sample(0.0, 1.0, 0, lost=Lost.TIMEOUT)], for_s=1),
    ],
    ids=["many", "none", "one", "long", "only lost"],
)  # fmt: skip
def test_drawings_stand_for_any_samples(samples: Samples) -> None:
    """Well-formed, and every number in them is one, inside the drawing."""
    for svg in (
        over_time(samples, bands=[Band(1, 3, "<store> & away")], limit_ms=200),
        percentile_curve({"search": samples, "a<b": samples}, limit_ms=50),
    ):
        root = ElementTree.fromstring(svg)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for one in root.iter():
            for name, most in (
                ("x", width),
                ("x1", width),
                ("x2", width),
                ("y", height),
                ("y1", height),
                ("y2", height),
            ):
                assert 0 <= float(one.attrib.get(name, 0)) <= most, one.attrib
        assert "nan" not in svg
        assert "inf" not in svg


def test_a_line_of_the_drawing_follows_the_latencies() -> None:
    """Slower is higher up, and a fault's band lies where it was."""
    slower = Samples([Sample(n, 10.0 if n < 50 else 1000.0, 200) for n in range(100)], for_s=100)
    root = ElementTree.fromstring(over_time(slower, bands=[Band(50, 100, "fault")]))
    p50 = root.findall(".//{http://www.w3.org/2000/svg}path")[-1].attrib["d"]
    points = [tuple(map(float, point.split("h")[0].split())) for point in p50.removeprefix("M").split("L")]
    assert len(points) == 100
    assert points[0][1] > points[-1][1]
    band = next(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert points[49][0] < float(band.attrib["x"]) < points[51][0]


def test_a_page_holds_all_of_it_and_nothing_that_a_name_could_break() -> None:
    html = page(HUNDRED, {"namespace": "<script>x</script>"}, Slo(p95_ms=50))
    assert html.count("<svg") == 2
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "Missed: p95" in html
    assert "Kept what was promised." in page(HUNDRED, {}, Slo(p95_ms=99))
    assert "promised." not in page(HUNDRED, {}, Slo()).split("<svg")[0]
