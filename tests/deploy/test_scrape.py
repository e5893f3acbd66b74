"""A scrape that comes while the server ends gets all of its metrics or no answer, never a half or a wrong one."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.cli.conftest import up

SCRAPERS = 4


def _families(text: str) -> set[str]:
    return {family.name for family in text_string_to_metric_families(text) if family.type != "unknown"}


def test_a_scrape_while_the_server_ends_is_whole_or_refused(tmp_path: Path) -> None:
    ended = Event()

    def scrape(url: str) -> list[httpx.Response]:
        """Until the server is gone. A connection of its own each time, as a Prometheus that starts has, and kept ones."""
        answers = []
        with httpx.Client(timeout=60.0) as kept:
            while not ended.is_set():
                for get in (kept.get, httpx.get):
                    try:
                        answers.append(get(f"{url}/metrics"))
                    except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
                        continue  # nobody listens any more, or the connection was closed: no answer
        return answers

    with up(tmp_path, "--data-dir", str(tmp_path / "data")) as about, ThreadPoolExecutor(SCRAPERS + 1) as threads:
        url, process = about["url"], about["process"]
        whole = _families(httpx.get(f"{url}/metrics").raise_for_status().text)
        part = ("file", ("a.txt", b"The heron eats fish."))
        scrapers = [threads.submit(scrape, url) for _ in range(SCRAPERS)]
        try:
            # Work is under way while it ends.
            httpx.post(f"{url}/v1/namespaces/default/documents", files=[part], timeout=60.0).raise_for_status()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 0
        finally:
            ended.set()
        answers = [answer for scraper in scrapers for answer in scraper.result()]
    assert answers
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        assert answer.text.endswith("\n")
        assert whole <= _families(answer.text)
