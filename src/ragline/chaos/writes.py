"""Changes in a namespace of the load's own: documents created, updated and deleted, never two changes of one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote

import aiohttp

from ragline.chaos.target import documents_path

SHARES = {"create": 0.5, "update": 0.3, "delete": 0.2}
"""More are created than deleted, so that there is always something to change."""

LINES = 12
"""Of a document, a query each: about a passage."""


@dataclass(frozen=True, slots=True)
class Write:
    """`id`: of the document as the server knows it; empty: it is new. `edition`: how often its bytes were sent."""

    what: str
    uri: str
    id: str = ""
    edition: int = 1


class Writes:
    """Which change comes next, and what is known to stand. `live`: documents whose last change was acknowledged, by uri."""

    def __init__(self, namespace: str, lines: Sequence[str], *, seed: int) -> None:
        self.namespace = namespace
        self.live: dict[str, Write] = {}
        self._lines = lines
        self._dice = Random(f"writes:{seed}")
        self._made = 0

    def next(self) -> Write:
        """Of a document that nobody changes meanwhile: until `done`, it is not in `live`."""
        what = self._dice.choices(list(SHARES), list(SHARES.values()))[0]
        if what == "create" or not self.live:
            self._made += 1
            return Write("create", f"load-{self._made}.txt")
        before = self.live.pop(self._dice.choice(list(self.live)))
        return Write(what, before.uri, before.id, before.edition + (what == "update"))

    def request(self, write: Write) -> tuple[str, str, aiohttp.FormData | None]:
        """Method, path and form."""
        path = documents_path(self.namespace)
        if write.what == "delete":
            return "DELETE", f"{path}/{quote(write.id, safe='')}", None
        dice = Random(f"{write.uri}:{write.edition}")
        lines = [f"{write.uri}, edition {write.edition}.", *(dice.choice(self._lines) + "." for _ in range(LINES))]
        form = aiohttp.FormData()
        form.add_field("file", "\n".join(lines).encode(), filename=write.uri, content_type="text/plain")
        return "POST", path, form

    def done(self, write: Write, answer: dict[str, Any]) -> None:
        """What a good answer says. A document whose change got none is left alone from then on: nobody knows what stands."""
        if write.what != "delete":
            self.live[write.uri] = Write("live", write.uri, answer["documents"][0]["id"], write.edition)
