"""What the service says after a kill, held against the ledger and against itself.

audit     `POST /v1/audit`: registry, stores and blobs agree
listing   every document is what was acknowledged, or, for a request cut off by the kill, what it asked for
searches  no reader is shown a chunk of an edition that does not serve, or of a document that it may not read
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.crashes.ledger import TEAM, Entry, Ledger, Version, editions_before
from bench.crashes.load import DOCUMENTS, TIMEOUT_S
from ragline.registry.acceptance import INSIDE

A_BATCH = 64
"""Searches in one request: what the API takes."""

BY_BOTH_LEGS = 8
"""Searches a reader that use the dense leg too: each embeds its query."""

TOKEN = re.compile(r"\bd\d+e\d+\b")
NUMBER = re.compile(r"^doc-(\d+)\.")

KINDS = {
    "missing chunks": "lost", "missing bytes": "lost", "missing blob": "lost", "missing collection": "lost",
    "surplus chunks": "doubled", "stale chunks": "doubled", "unknown chunks": "doubled", "limbo": "stuck",
    "overdue": "stuck", "orphan blob": "orphans", "orphan member": "leaked",
}  # fmt: skip
"""The audit's findings in the words of the table; what is not here counts as `other`."""


@dataclass(slots=True)
class Verdict:
    """What is wrong, in words: empty lists when all is well. `orphans`: blobs without owner, old enough to be told."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    came_through: int = 0
    """Requests cut off by the kill whose change holds all the same."""
    searches: int = 0

    @property
    def faults(self) -> list[str]:
        """Orphans are none by themselves: they are the housekeeper's, and counted at the end."""
        return [*self.lost, *self.doubled, *self.stuck, *self.leaked, *self.other]


class Books:
    """Tokens of three keys: an admin's, that of a reader in `TEAM`, and that of one in no group."""

    def __init__(self, ledger: Ledger, *, admin: str, insider: str, outsider: str, dice: random.Random) -> None:
        self._ledger = ledger
        self._admin = admin
        self._readers = ((insider, (TEAM,)), (outsider, ()))
        self._dice = dice

    async def check(self, url: str, *, searched: int | None) -> Verdict:
        """Everything by audit and listing; `searched` of the documents that were touched since the last check (None: all
        documents) by searches and by their chunks."""
        verdict = Verdict()
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as http:
            http.headers["Authorization"] = f"Bearer {self._admin}"
            await self._audit(http, verdict)
            await self._listing(http, verdict)
            numbers = sorted(self._ledger.entries if searched is None else self._ledger.touched)
            if searched is not None and len(numbers) > searched:
                numbers = self._dice.sample(numbers, searched)
            entries = [self._ledger.entries[number] for number in numbers]
            await self._texts(http, entries if searched is not None else entries[:500], verdict)
            await self._searches(http, entries, verdict)
        self._ledger.touched.clear()
        return verdict

    async def _audit(self, http: httpx.AsyncClient, verdict: Verdict) -> None:
        answer = await http.post("/v1/audit")
        assert answer.status_code == 200, answer.text
        for one in answer.json()["findings"]:
            words = f"audit: {one['kind']}: {one.get('uri') or one.get('document')} {one['place']}: {one['detail']}"
            getattr(verdict, KINDS.get(one["kind"], "other")).append(words)

    async def _listing(self, http: httpx.AsyncClient, verdict: Verdict) -> None:
        found: dict[str, dict[str, Any]] = {}
        cursor: str | None = ""
        while cursor is not None:
            page = (await http.get(DOCUMENTS, params={"limit": 1000, "cursor": cursor})).json()
            found |= {one["uri"]: one for one in page["documents"]}
            cursor = page["next"]
        inside: dict[str, dict[str, dict[str, Any]]] = {}
        for uri in [uri for uri in found if INSIDE in uri]:
            inside.setdefault(uri.partition(INSIDE)[0], {})[uri] = found.pop(uri)
        for entry in self._ledger.entries.values():
            uri = entry.known.name
            self._entry(entry, found.pop(uri, None), inside.pop(uri, {}), verdict)
        verdict.doubled += [f"{uri}: nobody asked for it" for uri in (*found, *inside)]

    def _entry(
        self, entry: Entry, one: dict[str, Any] | None, inside: Mapping[str, dict[str, Any]], verdict: Verdict
    ) -> None:
        uri = entry.known.name
        held = [version for version in entry.may_be if _is(version, one, inside)]
        if not held:
            seen = "is not there" if one is None else f"is {one['state']}, {one['sha256'][:8]}, {one['groups']}"
            seen += f" and holds {sorted(inside)}" if inside else ""
            verdict.lost.append(f"{uri}: {seen}; acknowledged was {entry.may_be}")
            return
        if one is not None:
            entry.id = one["id"]
            if one["revision"] < entry.sequence:
                verdict.lost.append(f"{uri}: revision {one['revision']} is before the acknowledged {entry.sequence}")
            for each in (one, *inside.values()):
                if each["state"] != "indexed" or each["live"] != each["content"]:
                    verdict.stuck.append(
                        f"{each['uri']}: {each['state']} {each['reason'] or ''}, serves {each['live']}"
                    )
            entry.inside = {uri: member["id"] for uri, member in inside.items()}
        verdict.came_through += entry.pending is not None and held[-1] == entry.pending
        entry.known, entry.pending = held[-1], None

    async def _texts(self, http: httpx.AsyncClient, entries: Iterable[Entry], verdict: Verdict) -> None:
        """The live chunks cover the acknowledged text, whole, and nothing else."""
        for entry in entries:
            version = entry.known
            if version.edition is None:
                continue
            texts = {uri: data.decode() for uri, data in version.inside.items() if uri.endswith(".txt")}
            if not version.is_archive:
                texts[version.name] = version.text
            for uri, text in texts.items():
                await self._text(http, uri, entry.inside.get(uri, entry.id), text, verdict)

    async def _text(self, http: httpx.AsyncClient, uri: str, id: str, text: str, verdict: Verdict) -> None:
        answer = await http.get(f"{DOCUMENTS}/{id}/chunks")
        if answer.status_code != 200 or not answer.json()["chunks"]:
            verdict.lost.append(f"{uri}: no chunks: {answer.text}")
            return
        chunks = answer.json()["chunks"]
        whole = chunks[0]["start"] == 0 and chunks[-1]["end"] == len(text)
        if not whole or any(text[one["start"] : one["end"]] != one["text"] for one in chunks):
            verdict.lost.append(f"{uri}: its chunks are not its text")

    async def _searches(self, http: httpx.AsyncClient, entries: Sequence[Entry], verdict: Verdict) -> None:
        """Each document by its own word and by those of its older editions, for both readers."""
        wanted = [(entry, entry.known.token, True) for entry in entries if _has_text(entry.known)]
        for entry in entries:
            old = list(editions_before(entry.known, entry.editions))
            wanted += [(entry, word, False) for word in old[-2:]]
        for key, groups in self._readers:
            starts = (0, *range(BY_BOTH_LEGS, len(wanted), A_BATCH))
            for start, end in zip(starts, (*starts[1:], len(wanted)), strict=True):
                part = wanted[start:end]
                if not part:
                    continue
                legs = ["keyword"] if start else ["keyword", "dense"]
                results = await _search(http, key, [word for _, word, _ in part], legs)
                verdict.searches += len(part)
                for (entry, word, serves), passages in zip(part, results, strict=True):
                    self._passages(entry, word, passages, groups, verdict, serves=serves)

    def _passages(
        self, entry: Entry, word: str, passages: Sequence[dict[str, Any]], groups: tuple[str, ...], verdict: Verdict,
        *, serves: bool,
    ) -> None:  # fmt: skip
        uri, shown = entry.known.name, False
        for passage in passages:
            at = self._ledger.entries[int(NUMBER.findall(passage["uri"])[0])].known
            words = set(TOKEN.findall(passage["text"]))
            if words != {at.token} or passage["uri"] not in (at.name, *at.inside):
                verdict.leaked.append(f"{passage['uri']}: shows {words}, serves edition {at.edition}")
            if not _may_read(at, groups):
                verdict.leaked.append(f"{passage['uri']}: shown to a reader of {groups}, is for {at.groups}")
            shown = shown or word in words
        if serves and shown != _may_read(entry.known, groups):
            verdict.lost.append(f"{uri}: {word} found: {shown}, reader of {groups}, is for {entry.known.groups}")


async def _search(http: httpx.AsyncClient, key: str, words: Sequence[str], legs: Sequence[str]) -> list[Any]:
    """Passages a query. Repeated while a leg was late: a busy machine is no fault here."""
    body = [{"query": word, "top_k": 5, "legs": list(legs)} for word in words]
    for _ in range(50):
        answer = await http.post("/v1/search", json=body, headers={"Authorization": f"Bearer {key}"})
        if answer.status_code == 200:
            results = answer.json()["results"]
            if not any(one["degraded"] for one in results):
                return [one["passages"] for one in results]
        await asyncio.sleep(0.1)
    raise AssertionError(f"searches stay degraded: {answer.text[:500]}")


def _may_read(version: Version, groups: tuple[str, ...]) -> bool:
    return not version.groups or bool(set(version.groups) & set(groups))


def _has_text(version: Version) -> bool:
    """Whether a search can find it: an archive by what is left in it."""
    return version.edition is not None and (
        not version.is_archive or any(not uri.endswith(".zip") for uri in version.inside)
    )


def _is(version: Version, one: dict[str, Any] | None, inside: Mapping[str, dict[str, Any]]) -> bool:
    """Readers and words of an archive are those of all that lies in it."""
    if version.edition is None or one is None:
        return version.edition is None and one is None and not inside
    expected = {version.name: version.data, **version.inside}
    rows = {version.name: one, **inside}
    return rows.keys() == expected.keys() and all(
        (row["sha256"], tuple(row["groups"]), row["metadata"].get("year"))
        == (hashlib.sha256(expected[uri]).hexdigest(), version.groups, version.year)
        for uri, row in rows.items()
    )
