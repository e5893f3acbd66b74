"""The example for Alertmanager: `amtool` takes it, and what is stale goes to the route that re-drives it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from urllib.request import Request, urlopen

import yaml

from ragline.api import redrive
from tests.cli.conftest import ragline, up
from tests.engines.prometheus import alertmanager, program, until

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


def test_a_real_alertmanager_has_a_real_server_drive_again(tmp_path: Path) -> None:
    """The shipped file with this server's address and a key of its own: the alert comes in, and the route is called."""
    with up(tmp_path, "--data-dir", str(tmp_path / "data")) as about:
        made = ragline("keys", "create", "redrive", "--role", "admin", "--url", about["url"], "--json", cwd=tmp_path)
        (tmp_path / "redrive.key").write_text(made.json["token"], "utf-8")
        text = FILE.read_text("utf-8").replace("http://127.0.0.1:8080", about["url"])
        config = tmp_path / "alertmanager.yml"
        config.write_text(text.replace("/etc/ragline/redrive.key", str(tmp_path / "redrive.key")), "utf-8")
        assert _called(about["url"]) == set()
        with alertmanager(tmp_path, config) as url:
            alert = {"labels": {"alertname": "RaglinePassagesStale", "severity": "warning"}}
            body = json.dumps([alert]).encode()
            request = Request(f"{url}/api/v2/alerts", data=body, headers={"Content-Type": "application/json"})
            with urlopen(request, timeout=10.0) as answer:
                assert answer.status == 200
            until(lambda: _called(about["url"]))
            assert _called(about["url"]) == {"200"}


def _called(url: str) -> set[str]:
    """The statuses that the route has answered with."""
    with urlopen(f"{url}/metrics", timeout=10.0) as answer:
        text = answer.read().decode()
    return set(re.findall(r'^http_requests_total\{route="[^"]*/redrive",status="(\d+)"\}', text, re.MULTILINE))
