"""What an experiment's file says; and that those which ship hold together with the rungs, the alerts and the runbooks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ragline.chaos.experiment import Experiment, load, shipped
from ragline.errors import ConfigurationError
from ragline.settings import Settings
from tests.deploy.alerts import RULES

RUNGS = (
    "dense leg",
    "keyword leg",
    "query embedding",
    "every leg",
    "reranker",
    "generator",
    "cache",
    "registry",
    "overload",
)
"""Of the ladder in docs/degradation.md, as far as a query meets them."""


def test_what_plays_a_fault_is_needed(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('title = "a"\nrung = "b"\njobs = 2\n[fault]\ntarget = "edge"\nkind = "refuse"\nfor_s = 1')
    assert load(file).needs == ("edge", "jobs")


def test_every_rung_has_one_experiment_in_the_core() -> None:
    assert sorted(one.rung for one in shipped() if one.core) == sorted(RUNGS)


def test_every_shipped_alert_is_set_off_by_an_experiment() -> None:
    rules = yaml.safe_load((RULES / "ragline-alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    names = {rule["alert"] + (f" at {burn} ×" if (burn := rule["labels"].get("burn")) else "") for rule in rules}
    assert names == {name for one in shipped() for name in one.expect.alerts}


@pytest.mark.parametrize("experiment", shipped(), ids=lambda one: one.name)
def test_what_ships_can_be_played_and_its_protection_taken_away(experiment: Experiment) -> None:
    assert bool(experiment.without) == bool(experiment.protects)
    for variable in experiment.without:
        part, name = variable.removeprefix("RAGLINE_").lower().split("__")
        assert name in type(getattr(Settings(), part)).model_fields


@pytest.mark.parametrize(
    "text",
    [
        "",
        "title = 1",
        '[fault]\ntarget = "vectors"\nkind = "hang"\nfor_s = 1\n[expect]\nwrites = "lost"',
        '[fault]\ntarget = "vectors"',
        'title = "a"\nrung = "b"\n[fault]\nwhom = "c"',
        "\x00",
        'title = "a"\nrung = "b"\n[fault]\ntarget = "nosuch"\nkind = "hang"\nfor_s = 1',
        'title = "a"\nrung = "b"\n[fault]\ntarget = "disk"\nkind = "hang"\nfor_s = 1',
        'title = "a"\nrung = "b"\n[fault]\ntarget = "keywords"\nkind = "miss"\nfor_s = 1',
        'title = "a"\nrung = "b"\n[fault]\ntarget = "workers"\nkind = "kill"\nfor_s = 1',
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"mine\.toml"):
        load(file)


@pytest.mark.parametrize(
    "page", sorted((RULES.parents[1] / "docs" / "runbooks").glob("*.md")), ids=lambda page: page.stem
)
def test_each_runbook_names_the_experiment_that_sets_its_alert_off(page: Path) -> None:
    (name,) = re.findall(r"ragline prove --local --alerts deploy/prometheus --only (\w+)", page.read_text("utf-8"))
    (one,) = [one for one in shipped() if one.name == name]
    assert page.stem in {alert.partition(" at ")[0] for alert in one.expect.alerts}
