"""The command: run engines through phases, each phase in a process of its own, and print the figures as JSON."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from bench.vector_engines.data import read_data
from bench.vector_engines.engines import ENGINES
from bench.vector_engines.phases import PHASES, Figures

PHASE_LIMIT_S = 900
WHAT = "Compare embedded vector engines on what Ragline asks of its default one."


def command(name: str, phase: str, folder: Path, options: argparse.Namespace) -> list[str]:
    rows = options.rows if not phase.startswith("kill") else min(options.rows, 10_000)
    return [
        sys.executable,
        "-m",
        "bench.vector_engines",
        "--data",
        str(options.data),
        "--rows",
        str(rows),
        "--phase",
        f"{name}:{phase}:{folder}",
    ]


def run_phase(name: str, phase: str, folder: Path, options: argparse.Namespace, **environment: str) -> Figures:
    try:
        done = subprocess.run(
            command(name, phase, folder, options),
            capture_output=True, text=True, env=os.environ | environment, timeout=PHASE_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {PHASE_LIMIT_S} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return (
        json.loads(lines[-1])
        if done.returncode == 0 and lines
        else {"failed": done.stderr[-600:], "rc": done.returncode}
    )


def kills(name: str, folder: Path, options: argparse.Namespace) -> Figures:
    """SIGKILL a writer at a random moment, open, compare with what it had acknowledged; again on the same files."""
    upserted: list[int] = []
    deleted: list[int] = []
    total = {"kills": 0, "open_failed": 0, "lost_batches": 0, "undeleted": 0, "unfindable": 0, "open_ms_max": 0}
    chance = random.Random(3)
    for _ in range(options.kills):
        first = str(max(upserted, default=-1) + 2)
        writer = subprocess.Popen(
            command(name, "kill_writer", folder, options),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"FIRST_BATCH": first},
        )  # fmt: skip
        killer = threading.Timer(0.1 + 3 * chance.random(), writer.send_signal, [signal.SIGKILL])
        for line in writer.stdout or ():
            if not killer.ident:
                killer.start()  # at the first acknowledgement: every kill finds work in flight
            word, _, batch = line.strip().partition(" ")
            if batch.isdigit():
                (upserted if word == "upserted" else deleted).append(int(batch))
        writer.wait()
        total["kills"] += 1
        maybe = deleted + [b - 1 for b in upserted if b % 7 == 3]
        state = {"upserted": upserted, "deleted": deleted, "maybe_deleted": maybe}
        seen = run_phase(name, "kill_check", folder, options, ACKNOWLEDGED=json.dumps(state))
        if "failed" in seen:
            total["open_failed"] += 1
            total["first_failure"] = total.get("first_failure") or seen["failed"]
            shutil.rmtree(folder)
            folder.mkdir()
            upserted, deleted = [], []
            continue
        for key in ("lost_batches", "undeleted", "unfindable"):
            total[key] += seen[key]
        total["open_ms_max"] = max(total["open_ms_max"], seen["open_ms"])
    return total | {"acknowledged_batches": len(upserted)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vector_engines", description=WHAT)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--only", default="build,serve,write,kills", help="phases to run")
    parser.add_argument("--work", type=Path, help="folder for the engines' files (default: a temporary one, removed)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        name, phase, folder = options.phase.split(":", 2)
        print(
            json.dumps(PHASES[phase](ENGINES[name](), Path(folder), read_data(options.data, options.rows))), flush=True
        )
        return
    work = options.work or Path(tempfile.mkdtemp())
    report: Figures = {}
    for name in options.engines.split(","):
        engine = ENGINES[name]()
        report[name] = {"version": importlib.metadata.version(engine.package)}
        folder, doomed = work / name, work / f"{name}-kills"
        for made in (folder, doomed):
            made.mkdir(parents=True, exist_ok=True)
        for phase in options.only.split(","):
            report[name][phase] = (
                kills(name, doomed, options) if phase == "kills" else run_phase(name, phase, folder, options)
            )
            print(name, phase, json.dumps(report[name][phase]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=2))
    if not options.work:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
