"""Where a fault on an engine of the user's is played: on the connections to it, where a wire can stand before it, else inside
the process under test.

A wire is an address on this machine that stands for the engine's own. It can stand where a client speaks to the addresses that it
is given and to no other, and asks nobody to prove by a certificate that he has that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from urllib.parse import parse_qs, urlsplit, urlunsplit

from ragline.chaos.experiment import Fault
from ragline.chaos.wire import Wire
from ragline.settings import Settings

PORTS = {"milvus": 19530, "elasticsearch": 9200, "redis": 6379, "postgresql": 5432, "postgres": 5432}
"""Scheme → port where the URL names none: of the engines that a wire can stand before."""

TLS = ("milvuss", "elasticsearchs", "rediss")
TLS_MODES = ("require", "verify-ca", "verify-full")
"""Of `sslmode`. What the others do works through a wire as well: they do not look at names."""

SET_BY = {
    "vectors": "RAGLINE_VECTORS", "keywords": "RAGLINE_KEYWORDS", "registry": "RAGLINE_REGISTRY", "cache": "RAGLINE_CACHE__URL",
    "jobs": "RAGLINE_JOBS__URL", "log": "RAGLINE_LOG",
}  # fmt: skip
"""Target of a fault → the setting that says where it is."""

ON_CONNECTION, INSIDE = "on the connection", "inside the process"


class Wires:
    """One before each address of each engine of `settings`; two engines on one server have each their own.

    variables:  settings of the process under test, by which it goes through them.
    inside:     target → why no wire stands before it.
    """

    def __init__(self, settings: Settings) -> None:
        urls = _urls(settings)
        self.inside = {target: why for target, url in urls.items() if (why := why_none(url))}
        self.variables: Mapping[str, str] = {}
        self._urls = {target: url for target, url in urls.items() if target not in self.inside}
        self._wires: dict[str, list[Wire]] = {}
        self._standing = AsyncExitStack()

    async def __aenter__(self) -> Wires:
        for target, url in self._urls.items():
            self._wires[target] = [
                await self._standing.enter_async_context(Wire(target, place, port=0)) for place in places(url)
            ]
        self.variables = {
            SET_BY[target]: through(url, [wire.port for wire in self._wires[target]])
            for target, url in self._urls.items()
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._standing.aclose()

    def takes(self, fault: Fault) -> bool:
        """Whether it is played here."""
        return fault.target in self._urls and fault.kind in ("hang", "refuse", "slow")

    async def play(self, faults: Mapping[str, Fault]) -> None:
        """From now on these, by target, and nothing else."""
        for target, wires in self._wires.items():
            fault = faults.get(target)
            for wire in wires:
                match fault and fault.kind:
                    case "hang":
                        wire.hold()
                    case "refuse":
                        wire.refuse()
                    case "slow" if fault:
                        wire.delay(fault.by)
                    case _:
                        await wire.heal()


def why_none(url: str) -> str:
    """Why no wire can stand before the engine of `url`, in words for the report; empty: one can."""
    parts = urlsplit(url)
    if parts.scheme in TLS or (parse_qs(parts.query).get("sslmode") or ["prefer"])[-1] in TLS_MODES:
        return "its certificate has its own name"
    if parts.scheme == "kafka":
        return "brokers tell their clients where to connect"
    if parts.scheme not in PORTS:
        return f"no wire is known to work before {parts.scheme}://"
    if not all(host for host, _ in places(url)):
        return "its URL names no host"
    return ""


def places(url: str) -> list[tuple[str, int]]:
    """Host and port of each of its addresses."""
    parts = urlsplit(url)
    each = [urlsplit(f"//{one}") for one in parts.netloc.rpartition("@")[2].split(",")]
    return [(one.hostname or "", one.port or PORTS[parts.scheme]) for one in each]


def through(url: str, ports: list[int]) -> str:
    """The same with addresses on this machine; user, password and options stay."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=login + at + ",".join(f"127.0.0.1:{port}" for port in ports)))


def _urls(settings: Settings) -> dict[str, str]:
    """Of the engines that are servers, by target. The jobs are the registry's neighbours where nothing else is said."""
    cache = settings.cache.url
    urls = {
        "vectors": settings.vectors, "keywords": settings.keywords, "registry": settings.registry, "jobs": settings.jobs_url,
        "log": settings.log, "cache": "" if cache == "off" or cache.startswith("memory:") else cache,
    }  # fmt: skip
    return {target: url for target, url in urls.items() if url}
