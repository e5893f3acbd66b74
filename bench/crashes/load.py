"""The clients: each changes documents of its own, one request at a time, and writes down what was answered."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence

import httpx

from bench.crashes.ledger import TEAM, Ledger, Version

DOCUMENTS = "/v1/namespaces/default/documents"

CLIENTS = 6
"""Requests in flight: several uploads share a commit, and several are cut off by a kill."""

NEW_AT_ONCE = 8
"""New documents in one request."""

TIMEOUT_S = 120.0
"""No answer for so long is a fault: whoever is killed closes its connections, and engines are silent for seconds."""


class CutOff(httpx.TransportError):
    """As if the server had gone: this client's share ends."""


class Load:
    """`share`: documents that are created and changes that are asked for in one run, all clients together."""

    def __init__(self, ledger: Ledger, *, documents: int, dice: random.Random, cuts: bool = False) -> None:
        """`cuts`: connections to engines are cut: an answer that one is away leaves open what came of the request."""
        self._cuts = cuts
        self._ledger = ledger
        self._documents = documents
        self._dice = dice

    async def run(self, url: str, token: str, *, new: int, changes: int) -> None:
        """Until the share is done, or the server is gone. Raises AssertionError: it answered something it must not;
        httpx.TimeoutException: it answered nothing."""
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
            shares = [self._client(http, n, new=new // CLIENTS, changes=changes // CLIENTS) for n in range(CLIENTS)]
            results = await asyncio.gather(*shares, return_exceptions=True)
        for result in results:
            gone = isinstance(result, httpx.TransportError) and not isinstance(result, httpx.TimeoutException)
            if isinstance(result, BaseException) and not gone:
                raise result

    async def reindex(self, url: str, token: str) -> None:
        """Begin a re-index; a kill may be quicker."""
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
            for _ in range(10):
                try:
                    self._open(await http.post("/v1/namespaces/default/reindex"))
                except CutOff:
                    await asyncio.sleep(0.5)
                except httpx.TransportError:
                    return
                else:
                    return

    async def _client(self, http: httpx.AsyncClient, client: int, *, new: int, changes: int) -> None:
        mine = [number for number in self._ledger.entries if number % CLIENTS == client]
        unmade = [n for n in range(client, self._documents, CLIENTS) if n not in self._ledger.entries][:new]
        while unmade or (changes > 0 and mine):
            if unmade and (changes <= 0 or not mine or self._dice.random() < new / (new + changes * NEW_AT_ONCE)):
                part, unmade = unmade[:NEW_AT_ONCE], unmade[NEW_AT_ONCE:]
                groups = self._dice.choice([(), (TEAM,)])
                await self._upload(http, [Version(number, 1, groups) for number in part])
                mine += part
            else:
                changes -= 1
                version = self._ledger.next_version(self._dice.choice(mine), self._dice)
                await self._change(http, version)

    async def _change(self, http: httpx.AsyncClient, version: Version) -> None:
        if version.edition is None:
            await self._delete(http, version)
        elif len(version.dropped) > len(self._ledger.entries[version.number].known.dropped):
            await self._drop(http, version)
        else:
            await self._upload(http, [version])

    async def _upload(self, http: httpx.AsyncClient, versions: Sequence[Version]) -> None:
        files = [
            ("file", (one.name, one.data, "application/zip" if one.is_archive else "text/plain")) for one in versions
        ]
        form = {"metadata": [json.dumps({"year": one.year}) for one in versions], "groups": list(versions[0].groups)}
        for one in versions:
            self._ledger.begin(one)
        while True:
            answer = self._open(await http.post(DOCUMENTS, files=files, data=form))
            if answer.status_code == 429:
                await asyncio.sleep(0.5)
                continue
            assert answer.status_code == 202, answer.text
            cut_off = []
            for one, told in zip(versions, answer.json()["documents"], strict=True):
                if self._cuts and told["state"] == "refused" and told["retryable"]:
                    cut_off.append(told)
                    continue
                assert told["state"] != "refused", told
                self._ledger.acknowledge(one, told["revision"], told["id"])
            if cut_off:
                raise CutOff(str(cut_off))
            return

    async def _delete(self, http: httpx.AsyncClient, version: Version) -> None:
        self._ledger.begin(version)
        id = self._ledger.entries[version.number].id
        answer = self._open(await http.delete(f"{DOCUMENTS}/{id}"))
        assert answer.status_code == 200, answer.text
        self._ledger.acknowledge(version, answer.json()["sequence"], id)

    async def _drop(self, http: httpx.AsyncClient, version: Version) -> None:
        """Delete one file of an archive by itself; of an edition that is not opened yet there may be none."""
        uri = f"{version.name}!/{version.dropped[-1]}"
        found = self._open(await http.get(DOCUMENTS, params={"uri": uri})).json()["documents"]
        if not found:
            return
        self._ledger.begin(version)
        answer = self._open(await http.delete(f"{DOCUMENTS}/{found[0]['id']}"))
        entry = self._ledger.entries[version.number]
        if answer.status_code == 404:  # another edition, which does not have it, was opened meanwhile
            entry.pending = None
            return
        assert answer.status_code == 200, answer.text
        self._ledger.acknowledge(version, entry.sequence, entry.id)

    def _open(self, answer: httpx.Response) -> httpx.Response:
        """Raises CutOff: an engine was, and so what came of the request is open."""
        if self._cuts and answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise CutOff(answer.text)
        return answer
