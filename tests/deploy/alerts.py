"""Scenes for alert rules: what Prometheus has scraped, and when an alert is to fire. `promtool` plays them; or a real Prometheus
goes by the shipped rules, with windows that a test can wait for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from tests.engines.prometheus import Prometheus, program, server, until

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
FILES = ("generators.yml", "ragline-records.yml", "ragline-alerts.yml")


def rates(*parts: tuple[float, int]) -> str:
    """A counter that rises by so much a minute, for so many minutes, and so on."""
    at, written = 0.0, ["0"]
    for step, minutes in parts:
        written.append(f"{at + step:g}+{step:g}x{minutes - 1}")
        at += step * minutes
    return " ".join(written)


def levels(*parts: tuple[float, int]) -> str:
    """A gauge that stands so high for so many minutes, and so on."""
    return " ".join(f"{at:g}+0x{minutes - 1}" for at, minutes in parts)


@dataclass(frozen=True)
class Scene:
    """`series`: as they are named → values, one a minute. `fires`, `quiet`: minutes. `labels`: of the alert, some."""

    alert: str
    what: str
    series: Mapping[str, str]
    fires: tuple[int, ...] = ()
    quiet: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    every: int = 1
    """Minutes between two scrapes, and two looks at the rules: windows of days are not played minute by minute."""

    def __str__(self) -> str:
        return "-".join([self.alert, *self.labels.values(), self.what.replace(" ", "_")])

    def document(self) -> dict[str, object]:
        wanted = ", ".join(
            f'{n}="{v}"' for n, v in {"alertname": self.alert, "alertstate": "firing", **self.labels}.items()
        )
        tests = [
            {
                "expr": f"count(ALERTS{{{wanted}}})", "eval_time": f"{minute}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if minute in self.fires else [],
            }
            for minute in sorted(self.fires + self.quiet)
        ]  # fmt: skip
        series = [{"series": name, "values": values} for name, values in self.series.items()]
        return {"name": str(self), "interval": f"{self.every}m", "input_series": series, "promql_expr_test": tests}


def play(folder: Path, scenes: Iterable[Scene], rules: Path = RULES) -> str:
    """What promtool has to say against it; empty: all is as the scenes say."""
    said = ""
    for every, some in groupby(sorted(scenes, key=lambda scene: scene.every), lambda scene: scene.every):
        file = folder / f"scenes-{every}.yml"
        document = {
            "rule_files": [str(rules / name) for name in FILES], "evaluation_interval": f"{every}m",
            "group_eval_order": [group["name"] for name in FILES for group in groups(rules / name)],
            "tests": [scene.document() for scene in some],
        }  # fmt: skip
        file.write_text(yaml.safe_dump(document), "utf-8")
        done = subprocess.run([program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
        said += "" if done.returncode == 0 else done.stdout + done.stderr
    return said


def groups(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(file.read_text("utf-8"))["groups"]
    return found


@contextmanager
def watching(folder: Path, url: str, rewritten: Callable[[str], str] = str) -> Iterator[Prometheus]:
    """The shipped configuration, every second, of the server at `url`; the rules as `rewritten`."""
    for name in FILES:
        (folder / name).write_text(rewritten((RULES / name).read_text("utf-8")), "utf-8")
    config = yaml.safe_load((RULES / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    del config["alerting"]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [url.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    with server(folder, folder / "prometheus.yml") as ours:
        until(lambda: ours.ask('up{job="ragline"} == 1'))
        yield ours
