"""What is put to the proof: a gateway of ours as a process of its own, whose engines fail when told.

Faults are played on that process's connections to its engines (`ragline.chaos.wires`), or inside it, before its adapters
(`ragline.faults`): other processes on the same engines, those that serve users, see none of it. Its documents are in a namespace
of their own, which goes at the end.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from ragline.chaos.experiment import Fault
from ragline.chaos.leash import COMMAND
from ragline.chaos.process import CAN_FILL_DISK
from ragline.chaos.wires import INSIDE, ON_CONNECTION, Wires
from ragline.errors import EngineUnavailable
from ragline.settings import load_settings

READY_WITHIN_S = 120.0
LIVE_WITHIN_S = 300.0

LOOK_S, WELL_LOOKS = 0.25, 120
"""Between two looks whether an engine is in use again, and how many."""

NAMED = re.compile(r"prove-[0-9a-f]{8}")
"""Namespaces of ours, and whom our keys stand for."""

KEY_FOR = "24h"
"""How long a key is good that nobody was left to revoke."""

ELSEWHERE = ("RAGLINE_URL", "RAGLINE_KEY")
"""Of the user's: another server, which commands of ours must not ask."""

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
    """`variables` are its settings. `wires`: before the user's engines, which the process joins beside those that serve; None:
    everything in one process, on engines in `folder`. `cold`: nothing was asked of it yet.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str], *, wires: Wires | None) -> None:
        self.namespace = f"prove-{secrets.token_hex(4)}"
        self.url = self.key = ""
        self.cold = True
        self._folder = folder
        self._faults = folder / "faults.json"
        self._log = folder / "ragline.log"
        self._wires = wires
        self._given = variables
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Stack:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            if self._wires:
                await self._wires.__aenter__()
            await self.play({})
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
        """Faults lifted, namespace and key gone, process ended, wires away: on every way out.

        Raises:  EngineUnavailable: the namespace or the key is still there; how they are removed.
        """
        try:
            await self.play({})
            await self._clear()
        finally:
            if self._process and self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.terminate()
                await self._process.wait()
            if self._wires:
                await self._wires.__aexit__(None, None, None)

    async def play(self, faults: Mapping[str, Fault]) -> None:
        """From now on these fail, and nothing else. By the target's name."""
        wires = self._wires
        inside = {name: fault for name, fault in faults.items() if not (wires and wires.takes(fault))}
        new = self._faults.with_suffix(".new")
        new.write_text(json.dumps({name: {"kind": fault.kind, "by_s": fault.by} for name, fault in inside.items()}))
        new.replace(self._faults)
        if wires:
            await wires.play({name: fault for name, fault in faults.items() if name not in inside})

    def where(self, fault: Fault) -> str:
        """`play` plays it; and why not on the connection, where the engine has one."""
        if self._wires and self._wires.takes(fault):
            return ON_CONNECTION
        why = self._wires.inside.get(fault.target) if self._wires else ""
        return f"{INSIDE} ({why})" if why else INSIDE

    async def left(self) -> list[str]:
        """Commands that remove what another proof left on these engines, which was killed, or is still running somewhere."""
        async with self.http() as http:
            spaces = (await http.get("/v1/namespaces")).raise_for_status().json()["namespaces"]
            keys = (await http.get("/v1/keys")).raise_for_status().json()["keys"]
        names = [one["name"] for one in spaces if NAMED.fullmatch(one["name"]) and one["name"] != self.namespace]
        ids = [
            one["id"] for one in keys
            if NAMED.fullmatch(one["principal"]) and one["principal"] != self.namespace
            and not one["revoked_at"] and (one["expires_at"] or math.inf) > time.time()
        ]  # fmt: skip
        return [
            *(f"ragline namespaces delete {name} --yes" for name in names),
            *(f"ragline keys revoke {id}" for id in ids),
        ]

    def http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30.0, trust_env=False, limits=limits)

    async def counts(self) -> dict[str, float]:
        """Each metric of the process under test, summed over its labels."""
        found: dict[str, float] = {}
        async with self.http() as http:
            text = (await http.get("/metrics")).raise_for_status().text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

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
        if self._wires:
            return set()
        log = self._given.get("RAGLINE_LOG") or load_settings().log
        return {"ingest", "jobs", "edge", "recall", *(["log"] if log else []), *(["disk"] if CAN_FILL_DISK else [])}

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

    @property
    def _environment(self) -> dict[str, str]:
        mine = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
        wired = self._wires.variables if self._wires else {}
        return {**mine, **wired, **self._given, "RAGLINE_FAULTS": str(self._faults)}

    async def _start(self) -> None:
        where = ("serve",) if self._wires else ("up", "--data-dir", str(self._folder / "data"))
        with self._log.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND, *where, "--host", "127.0.0.1", "--port", "0", "--json", env=self._environment,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                start_new_session=True,  # Ctrl-C is not for it: it is needed to clear up
            )  # fmt: skip
        assert self._process.stdout
        async with asyncio.timeout(READY_WITHIN_S):
            line = await self._process.stdout.readline()
        if not line:
            raise self._failed("The process under test ended at once")
        self.url = str(json.loads(line)["url"])
        if self._wires and await self._is_closed():
            words = ("keys", "create", self.namespace, "--role", "admin", "--expires", KEY_FOR)
            making = asyncio.create_task(self._ragline(*words))
            try:
                await asyncio.shield(making)
            finally:  # cancelled meanwhile, it is made all the same, and must go again
                self.key = str((await making)["token"])

    async def _is_closed(self) -> bool:
        """Whether there are keys. Where there are none, one of ours would shut everybody else out."""
        async with self.http() as http:
            return (await http.get("/v1/keys")).status_code == httpx.codes.UNAUTHORIZED

    async def _fill(self) -> None:
        async with self.http() as http:
            settings = {} if self._wires else {"public": True}  # an edge may hold its answers
            (await http.put(f"/v1/namespaces/{self.namespace}", json=settings)).raise_for_status()
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
        if not self.url or self._wires is None:
            return
        for look in range(WELL_LOOKS, 0, -1):  # of an engine that was away a moment ago
            try:
                await self._remove()
                break
            except httpx.HTTPError as error:
                if look == 1 or self._process is None or self._process.returncode is not None:
                    raise self._still_there(error) from error
            await asyncio.sleep(LOOK_S)

    async def _remove(self) -> None:
        """Raises httpx.HTTPError: something may still be there."""
        async with self.http() as http:
            gone = await http.delete(f"/v1/namespaces/{self.namespace}")
            if gone.status_code != httpx.codes.NOT_FOUND:
                gone.raise_for_status()
            if self.key:
                for one in (await http.get("/v1/keys")).raise_for_status().json()["keys"]:
                    if one["principal"] == self.namespace and not one["revoked_at"]:
                        (await http.delete(f"/v1/keys/{one['id']}")).raise_for_status()
        self.url = ""

    def _still_there(self, error: Exception) -> EngineUnavailable:
        key = f"; revoke the key of {self.namespace}, which `ragline keys list` shows" if self.key else ""
        return EngineUnavailable(
            f"The namespace {self.namespace} could not be removed: {error}",
            next_step=f"Run `ragline namespaces delete {self.namespace} --yes`{key}.",
            engine="prove",
        )

    async def _ragline(self, *words: str) -> Any:
        with self._log.open("ab") as errors:
            command = await asyncio.create_subprocess_exec(
                *COMMAND, *words, "--json", env=self._environment, start_new_session=True,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        assert command.stdout
        told = await command.stdout.read()
        if await command.wait():
            raise self._failed(f"`ragline {' '.join(words)}` failed")
        return json.loads(told)

    def _failed(self, what: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"{what}: {self._log.read_text(errors='replace')[-500:]}",
            next_step="Run `ragline doctor` with the same settings.",
            engine="prove",
        )
