"""The table of engines: every line opens what it says, names an extra that brings what it needs, and is in the documentation."""

from __future__ import annotations

import asyncio
import inspect
import re
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ragline import engines
from ragline.build import (
    open_cache,
    open_edge,
    open_job_queue,
    open_job_store,
    open_keywords,
    open_log,
    open_popularity,
    open_vectors,
)
from ragline.clock import SystemClock
from ragline.engines import CACHES, EDGES, JOB_STORES, KEYWORDS, LOGS, POPULARITIES, QUEUES, VECTORS, Engine
from ragline.errors import ConfigurationError, MissingDependency
from ragline.protocols import Cache, ChunkLog, Edge, JobQueue, JobStore, KeywordIndex, Popularity, VectorStore
from ragline.settings import CacheSettings, EdgeSettings, JobsSettings, Settings

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "vectors": (VECTORS, VectorStore), "keywords": (KEYWORDS, KeywordIndex), "log": (LOGS, ChunkLog),
    "jobs.queue": (QUEUES, JobQueue), "jobs.url": (JOB_STORES, JobStore), "edge.url": (EDGES, Edge),
    "edge.popularity": (POPULARITIES, Popularity),
    "cache.url": (CACHES, Cache),
}  # fmt: skip
LINES = [(setting, protocol, engine) for setting, (table, protocol) in ROOMS.items() for engine in table]


def _class_of(engine: Engine) -> Any:
    module, _, name = engine.opens.partition(":")
    opens = getattr(import_module(module), name)
    if inspect.isclass(opens):
        return opens
    return getattr(import_module(module), inspect.signature(opens).return_annotation)


@pytest.mark.parametrize(("setting", "protocol", "engine"), LINES, ids=lambda one: getattr(one, "name", str(one)))
def test_a_line_opens_an_adapter_of_its_room(setting: str, protocol: type, engine: Engine) -> None:
    adapter = _class_of(engine)
    verbs = {name for name, value in vars(protocol).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert {name for name in verbs if not inspect.isfunction(getattr(adapter, name, None))} == set()
    for name in verbs:
        promised, kept = (inspect.signature(getattr(one, name)).parameters for one in (protocol, adapter))
        assert [p for p in promised if p != "self"] == [p for p in kept if p != "self"][: len(promised) - 1], name


@pytest.mark.parametrize(("setting", "protocol", "engine"), LINES, ids=lambda one: getattr(one, "name", str(one)))
def test_the_extra_brings_what_it_needs_and_the_setting_tells_of_it(
    setting: str, protocol: type, engine: Engine
) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    brought = {re.split(r"[\[><=;]", one)[0] for one in extras.get(engine.extra, ())}
    if engine.extra == "elasticsearch":
        brought.add("aiohttp")  # by its own extra
    if engine.extra == "cloudtasks":
        brought.add("google.cloud.tasks_v2")  # google-cloud-tasks, as it is imported
    assert set(engine.needs) <= brought
    sections: dict[str, type[BaseModel]] = {
        "jobs": JobsSettings,
        "edge": EdgeSettings,
        "cache": CacheSettings,
        "": Settings,
    }
    fields = sections[setting.rpartition(".")[0]].model_fields
    assert engine.schemes[0] in (fields[setting.rpartition(".")[2]].description or "")


def _settings(setting: str, url: str) -> Settings:
    section, _, name = setting.rpartition(".")
    return Settings(**({section: {name: url}} if section else {name: url}))


def test_no_scheme_stands_twice() -> None:
    for table, _ in ROOMS.values():
        schemes = [scheme for engine in table for scheme in engine.schemes]
        assert len(schemes) == len(set(schemes))


def test_an_unknown_scheme_and_a_missing_package_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    opens: dict[str, Callable[[Settings], object]] = {
        "vectors": open_vectors, "keywords": open_keywords, "log": open_log,
        "jobs.queue": lambda settings: open_job_queue(settings, SystemClock()),
        "jobs.url": lambda settings: asyncio.run(open_job_store(settings, SystemClock())), "edge.url": open_edge,
        "edge.popularity": lambda settings: open_popularity(settings, SystemClock()),
        "cache.url": lambda settings: open_cache(settings, SystemClock()),
    }  # fmt: skip
    for setting, (table, _) in ROOMS.items():
        with pytest.raises(ConfigurationError, match=f"{setting}: no adapter for the scheme 'nosuch'") as unknown:
            opens[setting](_settings(setting, "nosuch://host"))
        assert all(f"{engine.schemes[0]}://…" in unknown.value.next_step for engine in table)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for setting, _, engine in (line for line in LINES if line[2].needs):
        with pytest.raises(MissingDependency) as missing:
            opens[setting](_settings(setting, f"{engine.schemes[0]}://host"))
        assert f"ragline[{engine.extra}]" in missing.value.next_step
        assert all(package in missing.value.message for package in engine.needs)


# ── engines in other packages ────────────────────────────────────────────────────────────────────────────────────────

_STORE = """
from ragline.testing.exact import ExactVectorStore

class TheirStore(ExactVectorStore):
    def __init__(self, url):
        super().__init__()
        self.url = url
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A distribution as its installer leaves it: a module, and the folder that tells of it, on the path for this test."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, points: str, store: str = _STORE) -> None:
        told = tmp_path / f"ragline_{name}-1.0.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ragline-{name}\nVersion: 1.0\n")
        (told / "entry_points.txt").write_text(f"[ragline.engines]\n{points}\n")
        (tmp_path / f"{name}_store.py").write_text(store)

    return install


async def test_an_engine_of_another_package_is_one_url(installed: Callable[..., None]) -> None:
    installed("mine", "vectors.mine = mine_store:TheirStore\nvectors.milvus = mine_store:TheirStore")
    store = open_vectors(Settings(vectors="mine://here/there?word=1"))
    assert type(store).__name__ == "TheirStore"
    assert vars(store)["url"] == "mine://here/there?word=1"
    await store.create("c", dim=3, fields={})
    assert await store.collections() == ["c"]
    assert type(open_vectors(Settings(vectors="milvus://h"))).__name__ == "MilvusVectorStore", (
        "ours are not theirs to take"
    )
    with pytest.raises(ConfigurationError, match="no adapter for the scheme 'mine'"):
        open_keywords(Settings(keywords="mine://here"))
    with pytest.raises(ConfigurationError) as unknown:
        open_vectors(Settings(vectors="nosuch://here"))
    assert "mine://…" in unknown.value.next_step


def test_a_package_whose_engine_does_not_load_is_named(installed: Callable[..., None]) -> None:
    installed(
        "lame",
        "vectors.lame = lame_store:TheirStore\nvectors.lost = lame_store:Nothing",
        "import nosuch_client\n",
    )
    installed("bare", "vectors.bare = bare_store:Nothing")
    for scheme, words in (("lame", "nosuch_client"), ("lost", "nosuch_client"), ("bare", "Nothing")):
        with pytest.raises(ConfigurationError, match=rf"ragline-\w+ says .*{words}") as refused:
            open_vectors(Settings(vectors=f"{scheme}://here"))
        assert refused.value.next_step


def test_two_packages_that_open_one_scheme(installed: Callable[..., None]) -> None:
    installed("one", "vectors.same = one_store:TheirStore")
    installed("two", "vectors.same = two_store:TheirStore")
    with pytest.raises(ConfigurationError, match="ragline-one and ragline-two"):
        open_vectors(Settings(vectors="same://here"))
