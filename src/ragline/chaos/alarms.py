"""A Prometheus beside an experiment, with the shipped alert rules: which alerts a fault sets off, and that they clear.

A minute of the rules is a second here: windows, offsets, `for` and limits that are an age are `SHORTER` times shorter, and
nothing else is changed. The real ones are tried by promtool.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

import httpx

from ragline.chaos import leash
from ragline.errors import ConfigurationError, EngineUnavailable

SHORTER = 60

READY_WITHIN_S, LOOK_S = 60.0, 0.5

CLEAR_WITHIN_S, EXPECTED_WITHIN_S = 20.0, 420.0
"""How long alerts are waited for that still fire after an experiment, those that it expects longer: six hours of the rules are
six minutes here."""

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGE = re.compile(r"(?<=oldest_waiting_document_s\) > )(\d+)|(?<=edge_purge_lag\) > )(\d+)")
_DURATION = re.compile(r"(?<=\[)(\d+)([smhd])(?=\])|(?<=offset )(\d+)([smhd])\b|(?<=for: )(\d+)([smhd])\b")


class Alarms:
    """Of one process of Ragline, whose metrics are at `url`. `rules`: folder with the rule files.

    Raises:  ConfigurationError: there are no rules, or there is no Prometheus here.
    """

    def __init__(self, folder: Path, rules: Path, url: str) -> None:
        self._folder, self._url, self._at = folder, url, ""
        self._rules, self._program = rules_in(rules), program()
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Alarms:
        self._folder.mkdir(parents=True)
        for name, text in self._rules.items():
            (self._folder / name).write_text(shortened(text, by=SHORTER), "utf-8")
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": list(self._rules),
            "scrape_configs": [
                {"job_name": "ragline", "static_configs": [{"targets": [self._url.removeprefix("http://")]}]}
            ],
        }
        (self._folder / "prometheus.yml").write_text(json.dumps(config), "utf-8")  # every JSON is YAML
        at, log = _free_address(), self._folder / "prometheus.log"
        command = [
            self._program, f"--config.file={self._folder / 'prometheus.yml'}", f"--web.listen-address={at}",
            f"--storage.tsdb.path={self._folder / 'data'}", "--log.level=warn",
        ]  # fmt: skip
        with log.open("wb") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *leash.WALK,
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self._at = f"http://{at}"
        try:
            await self._ready(log)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()
            await self._process.wait()

    async def firing(self) -> frozenset[str]:
        """Names of the alerts that fire now; of those of several burn rates with the rate."""
        async with httpx.AsyncClient(base_url=self._at, timeout=10.0, trust_env=False) as http:
            told = (await http.get("/api/v1/alerts")).raise_for_status().json()["data"]["alerts"]
        return frozenset(_name(one["labels"]) for one in told if one["state"] == "firing")

    async def _ready(self, log: Path) -> None:
        assert self._process
        async with asyncio.timeout(READY_WITHIN_S):
            async with httpx.AsyncClient(base_url=self._at, timeout=2.0, trust_env=False) as http:
                while True:
                    if self._process.returncode is not None:
                        raise _ended(log)
                    try:
                        if (await http.get("/-/ready")).is_success:
                            return
                    except httpx.TransportError:
                        pass
                    await asyncio.sleep(LOOK_S)


class Alarmed:
    """Which alerts a fault made fire, and which of them still do."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._before: frozenset[str] = frozenset()
        self._fired: set[str] = set()
        self._looking: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        self._before = await self._alarms.firing()
        self._looking = asyncio.create_task(self._look())

    async def settled(self, expected: Collection[str]) -> dict[str, bool]:
        """Name → whether it has cleared, once all have, or after a while; those of `expected` may take longer."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while left := self._fired & (now := await self._alarms.firing()):
            longest_s = EXPECTED_WITHIN_S if left & set(expected) else CLEAR_WITHIN_S
            if loop.time() - began_s > longest_s:
                break
            await asyncio.sleep(LOOK_S)
        return {name: name not in now for name in sorted(self._fired)}

    def stop(self) -> None:
        if self._looking:
            self._looking.cancel()

    async def _look(self) -> None:
        while True:
            self._fired |= await self._alarms.firing() - self._before
            await asyncio.sleep(LOOK_S)


def rules_in(folder: Path) -> dict[str, str]:
    """File name → text. Raises ConfigurationError: there are none."""
    rules = {
        file.name: file.read_text("utf-8") for file in sorted(folder.glob("*.yml")) if file.name != "prometheus.yml"
    }
    if not rules:
        raise ConfigurationError(
            f"--alerts {folder}: there are no rule files (*.yml).", next_step="Name the folder `deploy/prometheus`."
        )
    return rules


def program() -> str:
    """Raises ConfigurationError: it is not here."""
    if (found := shutil.which("prometheus")) is None:
        raise ConfigurationError(
            "--alerts needs the program `prometheus`, which is not here.",
            next_step="Install it, such as by `apt-get install prometheus`, or leave --alerts out.",
        )
    return found


def shortened(rules: str, *, by: int) -> str:
    """`rules` with each window, offset, `for` and age so many times shorter. Names of series and guards stay as they are: a guard
    that counts in a window is reached by as much more traffic."""

    def shorter(found: re.Match[str]) -> str:
        number, unit = filter(None, found.groups())
        return f"{int(number) * _UNITS_S[unit] * 1000 // by}ms"

    return _AGE.sub(lambda found: f"{int(found[0]) / by:g}", _DURATION.sub(shorter, rules))


def _ended(log: Path) -> EngineUnavailable:
    return EngineUnavailable(
        f"Prometheus ended at once: {log.read_text(errors='replace')[-500:]}",
        next_step="Check the rules with `promtool check rules`.",
        engine="prove",
    )


def _name(labels: dict[str, str]) -> str:
    return labels["alertname"] + (f" at {burn} ×" if (burn := labels.get("burn")) else "")


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
