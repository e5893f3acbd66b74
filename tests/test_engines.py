"""The table of engines: every line opens what it says, names an extra that brings what it needs, and is in the documentation."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ragline import engines
from ragline.build import open_cache, open_keywords, open_log, open_vectors
from ragline.clock import SystemClock
from ragline.engines import CACHES, KEYWORDS, LOGS, VECTORS, Engine
from ragline.errors import ConfigurationError, MissingDependency
from ragline.protocols import Cache, ChunkLog, KeywordIndex, VectorStore
from ragline.settings import CacheSettings, Settings

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "vectors": (VECTORS, VectorStore),
    "keywords": (KEYWORDS, KeywordIndex),
    "log": (LOGS, ChunkLog),
    "cache": (CACHES, Cache),
}
LINES = [(setting, protocol, engine) for setting, (table, protocol) in ROOMS.items() for engine in table]


def _settings(setting: str, url: str) -> Settings:
    if setting == "cache":
        return Settings(cache=CacheSettings(url=url))
    return Settings(**{setting: url})  # type: ignore[arg-type]


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
    brought = {re.split(r"[\[><=;]", one)[0] for one in extras[engine.extra]}
    if engine.extra == "elasticsearch":
        brought.add("aiohttp")  # by its own extra
    assert set(engine.needs) <= brought
    field = CacheSettings.model_fields["url"] if setting == "cache" else Settings.model_fields[setting]
    assert engine.schemes[0] in (field.description or "")


def test_no_scheme_stands_twice() -> None:
    for table, _ in ROOMS.values():
        schemes = [scheme for engine in table for scheme in engine.schemes]
        assert len(schemes) == len(set(schemes))


def test_an_unknown_scheme_and_a_missing_package_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    opens: dict[str, Callable[[Settings], object]] = {
        "vectors": open_vectors, "keywords": open_keywords, "log": open_log,
        "cache": lambda settings: open_cache(settings, SystemClock()),
    }  # fmt: skip
    for setting, (table, _) in ROOMS.items():
        with pytest.raises(ConfigurationError, match=f"{setting}.*: no adapter for the scheme 'nosuch'") as unknown:
            opens[setting](_settings(setting, "nosuch://host"))
        assert all(f"{engine.schemes[0]}://…" in unknown.value.next_step for engine in table)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for setting, _, engine in LINES:
        with pytest.raises(MissingDependency) as missing:
            opens[setting](_settings(setting, f"{engine.schemes[0]}://host"))
        assert f"ragline[{engine.extra}]" in missing.value.next_step
        assert all(package in missing.value.message for package in engine.needs)
