"""Processes: `up` and `serve`, who holds the data folder, and how everything ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from ragline.datafolder import DataFolder, Holder

from .conftest import ragline, start, up


def _write(folder: Path, name: str = "a.txt", text: str = "Shipping to Berlin takes three days.") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_one_process_has_the_folder_and_the_others_go_through_it(tmp_path: Path) -> None:
    _write(tmp_path)
    with up(tmp_path) as about:
        url, process = about["url"], about["process"]
        assert httpx.get(f"{url}/readyz").json() == {"ready": True, "missing": []}
        assert httpx.get(f"{url}/docs").status_code == 200
        assert Path(about["data_dir"]) == tmp_path / ".ragline"
        holder = DataFolder(tmp_path / ".ragline").holder()
        assert holder == Holder(about["pid"], url, holder.token if holder else "")
        assert (tmp_path / ".ragline" / "holder.json").stat().st_mode & 0o077 == 0

        second = ragline("up", "--port", "0", cwd=tmp_path)
        assert second.code == 2
        assert f"is in use by process {about['pid']}, which answers at {url}." in second.err

        taken = ragline("up", "--port", str(httpx.URL(url).port), "--data-dir", "other", cwd=tmp_path)
        assert taken.code == 2
        assert f"Port {httpx.URL(url).port} on 127.0.0.1 is in use." in taken.err
        assert "--port 0" in taken.err

        assert ragline("ingest", "a.txt", "--json", cwd=tmp_path).json["indexed"] == 1
        assert (
            ragline("search", "Berlin", "--json", cwd=tmp_path, RAGLINE_URL=url).json["passages"][0]["uri"] == "a.txt"
        )

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    assert DataFolder(tmp_path / ".ragline").holder() is None
    assert ragline("search", "x", "--url", url, cwd=tmp_path).code == 3

    shown = ragline("ask", "How long does shipping to Berlin take?", cwd=tmp_path)
    assert (shown.code, shown.err) == (0, "")
    assert "three days" in shown.out


def test_without_up_a_command_takes_the_folder_itself(tmp_path: Path) -> None:
    missing = ragline("search", "x", cwd=tmp_path)
    assert missing.code == 2
    assert "There is no data folder" in missing.err
    assert not (tmp_path / ".ragline").exists(), "looking must not make one"

    _write(tmp_path, "ragline.toml", '[ingest]\nmax_document_bytes = "many"\n')
    wrong = ragline("ingest", "a.txt", cwd=tmp_path)
    assert wrong.code == 2
    assert "ingest.max_document_bytes (RAGLINE_INGEST__MAX_DOCUMENT_BYTES)" in wrong.err
    assert "nowhere.toml is not there" in ragline("search", "x", "--config", "nowhere.toml", cwd=tmp_path).err

    _write(tmp_path, "ragline.toml", "[ingest]\nmax_document_bytes = 50\n")
    _write(tmp_path, "a.txt", "Short enough.")
    _write(tmp_path, "b.txt", "x" * 51)
    done = ragline("ingest", "a.txt", "b.txt", "--json", cwd=tmp_path)
    assert (done.code, done.err, done.json["indexed"]) == (1, "", 1)
    assert "51 bytes are over the limit of 50" in done.json["failed"][0]["reason"]
    assert not list((tmp_path / ".ragline").glob("holder*"))


def test_ctrl_c_ends_a_command_in_order_and_loses_nothing(tmp_path: Path) -> None:
    lines = [json.dumps({"_id": str(n), "text": f"Document {n}. " + "All work and no play. " * 60}) for n in range(300)]
    _write(tmp_path, "r.jsonl", "\n".join(lines))
    process = start("ingest", "r.jsonl", "--records", cwd=tmp_path)
    blobs = tmp_path / ".ragline" / "blobs"
    while process.poll() is None and not any(path.is_file() for path in blobs.rglob("*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert DataFolder(tmp_path / ".ragline").holder() is None
    kept = ragline("documents", "list", "--limit", "1000", "--json", cwd=tmp_path).json["documents"]
    assert {one["state"] for one in kept} <= {"received", "chunked", "indexed"}


HANGS = """
import asyncio, signal, sys, time
from ragline.cli.session import run_to_exit

async def hangs():
    print("on", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        {farewell}

run_to_exit(hangs(), as_json=False, debug=False, stop_s={stop_s})
"""


@pytest.mark.parametrize(
    ("stop_s", "signals", "why", "farewell"),
    [
        (0.2, 1, "did not end in order within", "await asyncio.Event().wait()"),
        (0.2, 1, "did not end in order within", "time.sleep(600)"),
        (0.2, 1, "did not end in order within", "await asyncio.to_thread(time.sleep, 600)"),
        (600.0, 2, "told twice", "await asyncio.Event().wait()"),
        (600.0, 2, "told twice", "await asyncio.to_thread(time.sleep, 600)"),
    ],
)
def test_what_does_not_end_in_order_ends_all_the_same(stop_s: float, signals: int, why: str, farewell: str) -> None:
    code = HANGS.format(farewell=farewell, stop_s=stop_s)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "on\n"
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)  # two that come together are one
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert why in err
    assert "Nothing that was accepted is lost" in err


WAITS = """
import asyncio, sys, typer
from ragline.cli.session import run_to_exit

async def waits():
    print("on", flush=True)
    try:
        await asyncio.to_thread(sys.stdin.readline)
    finally:
        print("off")

typer.run(lambda: run_to_exit(waits(), as_json=False, debug=False))
"""


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ([], signal.SIGTERM, 128 + signal.SIGTERM),
        ([], signal.SIGINT, 128 + signal.SIGINT),
        ([], signal.SIGHUP, 128 + signal.SIGHUP),
        (["nohup"], signal.SIGHUP, 0),
    ],
)
def test_a_signal_ends_a_command_in_order_and_a_closed_terminal_none_that_nohup_keeps(
    command: list[str], number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [*command, sys.executable, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "on\n"
        process.send_signal(number)
        time.sleep(0.5)
        process.stdin.close()
        assert process.wait(60) == code
        assert process.stdout.read() == "off\n"


HUNG_UP = """
import asyncio, os, pathlib, sys, typer
from ragline.cli.session import run_to_exit

async def waits():
    os.open(os.ttyname(0), os.O_RDWR)  # from now on it is the terminal that this process belongs to
    print("on", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("off", flush=True)
        await asyncio.{farewell}
        pathlib.Path("ended").touch()

typer.run(lambda: run_to_exit(waits(), as_json=False, debug=False, stop_s={stop_s}))
"""


@pytest.mark.parametrize(
    ("stop_s", "farewell", "code"),
    [(None, "sleep(0.5)", 129), (600.0, "sleep(0.5)", 129), (0.2, "Event().wait()", 1)],
)
def test_a_terminal_that_is_closed_ends_a_command_in_order_though_it_says_so_twice(
    stop_s: float | None, farewell: str, code: int, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", HUNG_UP.format(stop_s=stop_s, farewell=farewell)], cwd=tmp_path, start_new_session=True,
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        assert os.read(ours, 2) == b"on"
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == code
    assert (tmp_path / "ended").exists() == (code == 129)


def test_an_address_that_others_reach_needs_a_key(tmp_path: Path) -> None:
    for command in (("up",), ("serve", "embedder")):
        refused = ragline(*command, "--host", "0.0.0.0", "--port", "0", cwd=tmp_path)
        assert refused.code == 2
        assert "no API key exists" in refused.err
        assert "ragline keys create" in refused.err
    token = ragline("keys", "create", "me", "--role", "admin", cwd=tmp_path).out.strip()
    with up(tmp_path, "--host", "0.0.0.0") as about:
        assert httpx.get(f"{about['url']}/v1/namespaces").status_code == 401
        answer = httpx.get(f"{about['url']}/v1/namespaces", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
        with socket.socket() as listener, pytest.raises(OSError, match="in use"):
            listener.bind(("127.0.0.1", httpx.URL(about["url"]).port or 0))


def test_one_layer_can_be_served_alone(tmp_path: Path) -> None:
    with up(tmp_path, command=("serve", "retriever")) as about:
        assert httpx.post(f"{about['url']}/v1/search", json={"query": "x"}).json()["passages"] == []
        assert httpx.get(f"{about['url']}/v1/namespaces").status_code == 404
        with up(tmp_path, command=("serve", "embedder")) as beside:
            answer = httpx.post(f"{beside['url']}/v1/embeddings", json={"input": ["a", "b"]}).json()
            assert [len(one["embedding"]) for one in answer["data"]] == [384, 384]


def test_doctor_works_when_nothing_else_does(tmp_path: Path) -> None:
    _write(tmp_path, "ragline.toml", '[embedder]\nsource = "/nowhere"\n[[generators]]\nurl = "http://127.0.0.1:9/v1"\n')
    (tmp_path / ".ragline").mkdir()
    (tmp_path / ".ragline" / "registry.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    done = ragline("doctor", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (1, "")
    findings = {one["part"]: one for one in done.json["findings"]}
    assert {part for part, one in findings.items() if one["state"] == "broken"} == {"registry", "embedder", "generator"}
    assert all(one["next_step"] for one in findings.values() if one["state"] == "broken")
    assert done.json["settings"]["embedder.source"] == "/nowhere"


def test_help_and_version_are_light(tmp_path: Path) -> None:
    assert "Commands:" in ragline("--help", cwd=tmp_path).out
    assert ragline("version", "--json", cwd=tmp_path).json["ragline"]
    heavy = ("httpx", "pydantic", "fastapi", "sqlalchemy", "numpy", "rich", "structlog")
    code = f"import sys, ragline.cli.main; print([name for name in {heavy} if name in sys.modules])"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_server_that_tells_everything_tells_no_text_and_no_key(tmp_path: Path) -> None:
    _write(tmp_path, "ragline.toml", 'log_level = "debug"\n')
    _write(tmp_path, text="A heron wades at Quibblewick.")
    process = start("up", "--port", "0", "--json", cwd=tmp_path)
    try:
        assert process.stdout
        url = json.loads(process.stdout.readline())["url"]
        assert ragline("ingest", "a.txt", "--json", cwd=tmp_path).json["indexed"] == 1
        found = httpx.get(f"{url}/v1/search", params={"q": "zanzibarically"})
        assert "Quibblewick" in found.text
        wrong = httpx.get(
            f"{url}/v1/search", params={"q": "zanzibarically", "top_k": 0}, headers={"Authorization": "Bearer rgl_mine"}
        )
        assert httpx.post(f"{url}/v1/answers", json={"query": "zanzibarically"}).status_code == 200
    finally:
        process.terminate()
        _, err = process.communicate(timeout=120)
    lines = {line["request_id"]: line for line in map(json.loads, err.splitlines()) if line["event"] == "request"}
    assert lines[found.headers["x-request-id"]]["route"] == "/v1/search"
    assert lines[wrong.json()["request_id"]]["status"] == wrong.status_code
    for secret in ("zanzibarically", "Quibblewick", "rgl_mine"):
        assert secret not in err
