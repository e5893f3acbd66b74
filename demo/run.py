"""`make demo`: real documents in, cited answers out, and a check that they are right.

Starts the real `ragline up` on an empty data folder, uploads `demo/documents` and `docs/` over HTTP, asks, and compares
each cited passage with what it must hold. Exit code 0: all as it should be; 1: the message says what is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = "/v1/namespaces/default/documents"
READY_WITHIN_S = 300
"""The very first start converts the embedding model and keeps the result; later ones take seconds."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a cited passage must hold, and where it must say that it comes from."""

    uri: str
    phrase: str
    page: int | None = None
    heading: str | None = None

    def held_by(self, passage: dict[str, Any]) -> bool:
        placed = self.page in (None, passage.get("page")) and self.heading in (None, *passage["headings"])
        return passage["uri"] == self.uri and self.phrase in " ".join(passage["text"].split()) and placed


QUESTIONS = {
    "At what age may citizens vote?": Expected("us-amendments.pdf", "eighteen years of age or older", page=7),
    "What oath does the President take?": Expected("us-constitution.docx", "I do solemnly swear", heading="Article II"),
    "What is the atomic weight of tungsten?": Expected("chemical-elements.csv", "Standard atomic weight: 183.84"),
    "How much does a kilogram of gold cost?": None,  # of gold and of kilograms they tell, of prices they do not
}

NEXT = """\
  .venv/bin/ragline ingest PATH          a folder, a glob or files, into .ragline here
  .venv/bin/ragline ask 'YOUR QUESTION'  an answer with its sources
  .venv/bin/ragline up                   the HTTP API on port 8080; its pages at http://127.0.0.1:8080/docs"""


class Wrong(Exception):
    """The demo did not show what it should."""


def main() -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ragline-demo-") as folder:
        say("Starting `ragline up` on an empty data folder")
        with server(Path(folder)) as url, httpx.Client(base_url=url, timeout=120) as client:
            say(f"It answers at {url} after {time.monotonic() - start:.1f} s")
            ingest(client)
            for question, expected in QUESTIONS.items():
                ask(client, question, expected)
    console.print(
        f"\n[bold green]All as it should be[/], in {time.monotonic() - start:.0f} s. Now your own documents:\n"
    )
    console.print(NEXT)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """`ragline up` on a free port, its log in `folder`, until the block ends; gives its URL."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAGLINE_")}
    command = [str(Path(sys.executable).with_name("ragline")), "up", "--port", "0", "--data-dir", str(folder / "data")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while (url := ready(folder / "data" / "holder.json")) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"ragline up did not start:\n{(folder / 'log').read_text('utf-8', 'replace')[-3000:]}")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()  # nothing happens to one that has ended


def ready(card: Path) -> str | None:
    """Where the holder of the data folder answers, once it does; the CLI finds it by the same file."""
    try:
        url = json.loads(card.read_text())["url"]
        return str(url) if url and httpx.get(f"{url}/readyz").status_code == 200 else None
    except (OSError, ValueError, httpx.TransportError):
        return None


def ingest(client: httpx.Client) -> None:
    """Upload all, and show what became of each."""
    files = {path.name: path for path in sorted((ROOT / "demo" / "documents").iterdir())}
    files |= {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "docs").glob("*.md"))}
    say(f"Uploading {len(files)} documents, and waiting until they are indexed")
    start = time.monotonic()
    parts = [("file", (uri, path.read_bytes())) for uri, path in files.items()]
    client.post(DOCUMENTS, params={"wait": True}, files=parts, data={"uri": list(files)}).raise_for_status()
    took_s = time.monotonic() - start
    listed = {one["uri"]: one for one in client.get(DOCUMENTS).json()["documents"]}
    table = Table("document", "title", "bytes", "chunks", "state", box=None, pad_edge=False)
    for uri in (uri for uri in files if "/" not in uri):
        one = listed[uri]
        table.add_row(uri, escape(one["title"]), f"{one['size']:,}", str(one["chunks"]), one["state"])
    own = [listed[uri] for uri in files if "/" in uri]
    sums = f"{sum(one['size'] for one in own):,}", str(sum(one["chunks"] or 0 for one in own))
    table.add_row("docs/", f"{len(own)} pages of Ragline's own", *sums, ", ".join({one["state"] for one in own}))
    console.print(Padding(table, (0, 0, 0, 4)))
    say(f"{len(files)} documents, {sum(one['chunks'] or 0 for one in listed.values())} chunks, {took_s:.1f} s")
    if failed := [f"{one['uri']}: {one['reason']}" for one in listed.values() if one["state"] != "indexed"]:
        raise Wrong("Not indexed: " + "; ".join(failed))


def ask(client: httpx.Client, question: str, expected: Expected | None) -> None:
    """Show the answer with its sources. Raises Wrong: it cites not what it must, or answers what no document says."""
    answer = client.post("/v1/answers", json={"query": question}).raise_for_status().json()
    cited = [passage for passage in answer["passages"] if passage["n"] in answer["citations"]]
    console.print(f"\n[bold cyan]{question}[/]  [dim]{answer['timings_ms']['total']:.0f} ms[/]")
    console.print(Padding(escape(answer["answer"]), (0, 0, 0, 4)))
    for passage in cited:
        console.print(Padding(f"[dim]{escape(place(passage))}[/]", (0, 0, 0, 4)))
    if answer["degraded"]:
        console.print(f"    degraded: {', '.join(answer['degraded'])} (a busy machine?)")
    if expected is None and (answer["grounded"] or cited):
        raise Wrong(f"{question} No document answers this; the answer should say so.")
    if expected and not (answer["grounded"] and any(map(expected.held_by, cited))):
        raise Wrong(f"{question} No cited passage is {expected}.")


def place(passage: dict[str, Any]) -> str:
    page = f"page {passage['page']}" if passage.get("page") else ""
    headings = " › ".join(heading for heading in passage["headings"] if heading != passage["title"])
    return f"[{passage['n']}] " + " · ".join(filter(None, (passage["uri"], passage["title"], page, headings)))


def say(text: str) -> None:
    console.print(f"[green]==>[/] {text}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except (Wrong, httpx.HTTPError) as error:
        console.print(f"\n[bold red]The demo failed.[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
