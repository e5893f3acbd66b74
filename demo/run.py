"""`make demo`: real documents in, cited answers out, and a check that they are right.

Starts the real `ragline up` on an empty data folder, uploads what lies in `demo/documents` and `docs/` over HTTP, asks,
and compares each cited passage with what it must hold. Exit code 0: all as it should be; 1: the message says what is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RAGLINE = str(Path(sys.executable).with_name("ragline"))
READY_WITHIN_S = 300
"""The very first start converts the embedding model and keeps the result; later ones take seconds."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)


@dataclass(frozen=True, slots=True)
class Expected:
    """What one cited passage must hold, and where it must be said to come from."""

    uri: str
    phrase: str
    page: int | None = None
    heading: str | None = None


QUESTIONS = {
    "What is the minimum age to vote?": Expected("us-amendments.pdf", "eighteen years of age or older", page=7),
    "Who has the power to declare war?": Expected("us-constitution.docx", "To declare War", heading="Section 8"),
    "What is the atomic weight of tungsten?": Expected("chemical-elements.csv", "Standard atomic weight: 183.84"),
    "What is the boiling point of tungsten?": None,  # near, but no document says it
}


class Wrong(Exception):
    """The demo did not show what it should."""


def main() -> None:
    start = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ragline-demo-")))
        say(f"Starting [bold]ragline up[/] on an empty data folder ({folder})")
        url = stack.enter_context(server(folder))
        client = stack.enter_context(httpx.Client(base_url=url, timeout=120))
        say(f"It answers at {url} after {time.monotonic() - start:.1f} s")
        ingest(client)
        for question, expected in QUESTIONS.items():
            ask(client, question, expected)
    console.print(
        f"\n[bold green]All as it should be[/], in {time.monotonic() - start:.0f} s. Now with your own documents:\n"
    )
    for command, what in (
        (".venv/bin/ragline ingest PATH", "a folder, a glob or files, into .ragline here"),
        (".venv/bin/ragline ask 'YOUR QUESTION'", "an answer with its sources"),
        (".venv/bin/ragline up", "the HTTP API on port 8080; every route at http://127.0.0.1:8080/docs"),
    ):
        console.print(f"  [bold]{command:<39}[/] {what}", soft_wrap=True)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """`ragline up` on a free port, its log in `folder`, until the block ends; gives its URL."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAGLINE_")}
    command = [RAGLINE, "up", "--port", "0", "--data-dir", str(folder / "data")]
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
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ready(card: Path) -> str | None:
    """Where the holder of the data folder answers, once it does; `holder.json` is how the CLI finds it as well."""
    try:
        url = json.loads(card.read_text())["url"]
        return str(url) if url and httpx.get(f"{url}/readyz").status_code == 200 else None
    except (OSError, ValueError, httpx.TransportError):
        return None


def ingest(client: httpx.Client) -> None:
    """Upload the demo's documents and the project's own; show each one's state and chunks."""
    files = {path.name: path for path in sorted((ROOT / "demo" / "documents").iterdir())}
    files |= {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "docs").rglob("*.md"))}
    say(f"Uploading {len(files)} documents, and waiting until they are indexed")
    start = time.monotonic()
    parts = [("file", (uri, path.read_bytes())) for uri, path in files.items()]
    route = "/v1/namespaces/default/documents"
    answer = client.post(route, params={"wait": True}, files=parts, data={"uri": list(files)})
    answer.raise_for_status()
    took_s = time.monotonic() - start
    listed = {one["uri"]: one for one in client.get(route).json()["documents"]}
    table = Table("document", "title", "bytes", "chunks", "state", box=None, pad_edge=False)
    for uri in files:
        one = listed[uri]
        table.add_row(uri, escape(one["title"]), f"{one['size']:,}", str(one["chunks"]), one["state"])
    console.print(Padding(table, (0, 0, 0, 4)))
    chunks = sum(one["chunks"] or 0 for one in listed.values())
    say(f"{len(files)} documents, {chunks} chunks, {took_s:.1f} s")
    if failed := [f"{one['uri']}: {one['reason']}" for one in listed.values() if one["state"] != "indexed"]:
        raise Wrong("not indexed: " + "; ".join(failed))


def ask(client: httpx.Client, question: str, expected: Expected | None) -> None:
    response = client.post("/v1/answers", json={"query": question})
    response.raise_for_status()
    answer = response.json()
    took_ms = answer["timings_ms"]["total"]
    console.print(f"\n[bold cyan]{question}[/]  [dim]{took_ms:.0f} ms, {answer['generator']}[/]")
    console.print(Padding(escape(answer["answer"]), (0, 0, 0, 4)))
    cited = [passage for passage in answer["passages"] if passage["n"] in answer["citations"]]
    for passage in cited:
        console.print(Padding(f"[dim]{escape(place(passage))}[/]", (0, 0, 0, 4)))
    check(question, answer, cited, expected)


def place(passage: dict[str, Any]) -> str:
    page = f"page {passage['page']}" if passage.get("page") else ""
    headings = " › ".join(heading for heading in passage["headings"] if heading != passage["title"])
    return f"[{passage['n']}] " + " · ".join(filter(None, (passage["uri"], passage["title"], page, headings)))


def check(question: str, answer: dict[str, Any], cited: list[dict[str, Any]], expected: Expected | None) -> None:
    """Raises Wrong: the answer does not cite what it must, or answers what no document says."""
    if answer["degraded"]:
        raise Wrong(f"{question} The answer is degraded: {answer['degraded']}.")
    if expected is None:
        if answer["grounded"] or cited:
            raise Wrong(f"{question} No document answers this, yet it was answered: {answer['answer']}")
        return
    if not (answer["grounded"] and cited):
        raise Wrong(f"{question} The answer cites nothing; {expected.uri} holds it.")
    for passage in cited:
        held = expected.phrase in " ".join(passage["text"].split())
        placed = expected.page in (None, passage.get("page")) and expected.heading in (None, *passage["headings"])
        if passage["uri"] == expected.uri and held and placed:
            return
    found = "; ".join(place(passage) for passage in cited)
    raise Wrong(f"{question} Nothing cited is {expected}; cited: {found}.")


def say(text: str) -> None:
    console.print(f"[green]==>[/] {text}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except (Wrong, httpx.HTTPError) as error:
        console.print(f"\n[bold red]The demo failed.[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
