"""The example for Alertmanager: `amtool` takes it, and what is stale goes to the route that re-drives it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from ragline.api import redrive
from tests.engines.prometheus import program

FILE = Path(__file__).resolve().parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"


def _amtool(*arguments: str) -> str:
    amtool = program("amtool", "prometheus-alertmanager")
    done = subprocess.run([amtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_finds_no_fault_with_it() -> None:
    assert "SUCCESS" in _amtool("check-config", str(FILE))


def test_alerts_go_where_the_page_says() -> None:
    def receivers(*labels: str) -> set[str]:
        return set(_amtool("config", "routes", "test", f"--config.file={FILE}", *labels).strip().split(","))

    assert "redrive" in receivers("alertname=RaglinePassagesStale", "severity=warning")
    assert receivers("alertname=RaglineDown", "severity=critical") == {"page"}
    assert receivers("alertname=RaglineCacheCold", "severity=warning") == {"ticket"}


def test_the_webhook_is_a_route_of_ours() -> None:
    (one,) = [r for r in yaml.safe_load(FILE.read_text("utf-8"))["receivers"] if r["name"] == "redrive"]
    (webhook,) = one["webhook_configs"]
    routes = {getattr(route, "path", "") for route in redrive.router.routes}
    assert webhook["url"].removeprefix("http://127.0.0.1:8080") in routes
    assert webhook["send_resolved"] is False
