"""What is put to the proof: a gateway of ours as a process of its own, whose engines fail when told.

Faults are played inside that process (`ragline.faults`), before its adapters: other processes on the same engines, those that
serve users, see none of it. Its documents are in a namespace of their own, which goes at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from ragline.chaos.experiment import Fault
from ragline.chaos.process import CAN_FILL_DISK
from ragline.errors import EngineUnavailable
from ragline.settings import load_settings

COMMAND = (sys.executable, "-c", "from ragline.cli.main import run; run()")

READY_WITHIN_S = 120.0
LIVE_WITHIN_S = 300.0

LOOK_S, WELL_LOOKS = 0.25, 120
"""Between two looks whether an engine is in use again, and how many."""

DOCUMENTS = 200
TOPICS = (
    "lighthouse", "harbour", "glacier", "orchard", "railway", "cathedral", "vineyard", "observatory", "quarry", "aqueduct",
    "windmill", "shipyard", "monastery", "viaduct", "reservoir", "market", "bridge", "mill", "tower", "garden",
)  # fmt: skip
FACTS = ("was built in", "was closed in", "was restored in", "was flooded in", "was sold in")


def documents() -> dict[str, str]:
    """Name → text: small, each with facts of its own."""
    return {
        f"{topic}-{n}.txt": f"The {topic} of district {n}. " + " ".join(
            f"The {topic} of district {n} {fact} {1700 + 7 * n + len(topic) + turn}." for turn, fact in enumerate(FACTS)
        )
        for n in range(DOCUMENTS // len(TOPICS)) for topic in TOPICS
    }  # fmt: skip


class Stack:
    """`variables` are its settings. `local`: everything in one process, on engines in `folder`; else the user's engines, and the
    process joins those that serve."""

    def __init__(self, folder: Path, variables: Mapping[str, str], *, local: bool) -> None:
        self.namespace = f"prove-{secrets.token_hex(4)}"
        self.url = self.key = ""
        self._folder = folder
        self._faults = folder / "faults.json"
        self._variables = {**variables, "RAGLINE_FAULTS": str(self._faults)}
        self._local = local
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Stack:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.play({})
        try:
            await self._start()
            await self._fill()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Faults lifted, namespace and key gone, process ended: on every way out."""
        self.play({})
        try:
            await self._clear()
        finally:
            if self._process and self._process.returncode is None:
                self._process.terminate()
                await self._process.wait()

    def play(self, faults: Mapping[str, Fault]) -> None:
        """From now on these fail, and nothing else. By the target's name."""
        said = {name: {"kind": fault.kind, "by_s": fault.by} for name, fault in faults.items()}
        new = self._faults.with_suffix(".new")
        new.write_text(json.dumps(said))
        new.replace(self._faults)

    def http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30.0, trust_env=False, limits=limits)

    async def has(self) -> set[str]:
        """Parts that there are, as `Experiment.needs` names them."""
        async with self.http() as http:
            told = (await http.get("/v1/status")).raise_for_status().json()
        names = {one["name"] for one in told["engines"]}
        llm = (
            {"llm"}
            if any(name.startswith("generator:") and name != "generator:extractive" for name in names)
            else set()
        )
        return {*names} | llm | self._ingest()

    def _ingest(self) -> set[str]:
        """Parts of the process under test where it takes documents in by itself: with servers, others may do it for it."""
        if not self._local:
            return set()
        log = self._variables.get("RAGLINE_LOG") or load_settings().log
        return {"ingest", *(["log"] if log else []), *(["disk"] if CAN_FILL_DISK else [])}

    @property
    def pid(self) -> int:
        """Of the process under test."""
        assert self._process
        return self._process.pid

    async def well(self) -> None:
        """Return when nothing is left out, or after a while: then the experiment will tell."""
        async with self.http() as http:
            for _ in range(WELL_LOOKS):
                told = (await http.get("/v1/status")).raise_for_status().json()
                if not any(one["left_out"] for one in told["engines"]):
                    return
                await asyncio.sleep(LOOK_S)

    async def _start(self) -> None:
        where = ("up", "--data-dir", str(self._folder / "data")) if self._local else ("serve",)
        log = self._folder / "ragline.log"
        with log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND, *where, "--port", "0", "--json", stdout=asyncio.subprocess.PIPE, stderr=errors,
                env={**os.environ, **self._variables},
            )  # fmt: skip
        assert self._process.stdout
        async with asyncio.timeout(READY_WITHIN_S):
            line = await self._process.stdout.readline()
        if not line:
            raise EngineUnavailable(
                f"The process under test ended at once: {log.read_text(errors='replace')[-500:]}",
                next_step="Run `ragline doctor` with the same settings.",
                engine="prove",
            )
        self.url = str(json.loads(line)["url"])
        if not self._local:
            self.key = str((await self._ragline("keys", "create", self.namespace, "--role", "admin"))["token"])

    async def _fill(self) -> None:
        async with self.http() as http:
            (await http.put(f"/v1/namespaces/{self.namespace}", json={})).raise_for_status()
            files = [("file", (name, text.encode(), "text/plain")) for name, text in documents().items()]
            path = f"/v1/namespaces/{self.namespace}/documents"
            answer = (
                await http.post(path, files=files, params={"wait": "true"}, timeout=LIVE_WITHIN_S)
            ).raise_for_status()
        failed = [one for one in answer.json()["documents"] if one.get("state") not in (None, "indexed")]
        if failed:
            raise EngineUnavailable(
                f"{len(failed)} of the documents are not live: {failed[:2]}",
                next_step="Look at `ragline documents why`; workers must run on these engines.",
                engine="prove",
            )

    async def _clear(self) -> None:
        if not self.url or self._local or self._process is None or self._process.returncode is not None:
            return
        async with self.http() as http:
            await http.delete(f"/v1/namespaces/{self.namespace}")
            for one in (await http.get("/v1/keys")).json().get("keys", []):
                if one["principal"] == self.namespace:
                    await http.delete(f"/v1/keys/{one['id']}")

    async def _ragline(self, *words: str) -> Any:
        command = await asyncio.create_subprocess_exec(
            *COMMAND, *words, "--json", stdout=asyncio.subprocess.PIPE, env={**os.environ, **self._variables}
        )
        told, _ = await command.communicate()
        return json.loads(told)
