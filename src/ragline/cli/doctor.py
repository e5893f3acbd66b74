"""`ragline doctor`: the settings in force, what is reachable, what is missing, and what mends it.

Each part is tried by itself, so that one that is broken hides no other.
"""

from __future__ import annotations

import platform
import re
import secrets
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ragline.cli.audit import deep as deep_audit
from ragline.cli.audit import show as show_audit
from ragline.cli.failures import SomeFailed, WrongUsage
from ragline.cli.options import Config, DataDir, Debug, Json, Key, Url
from ragline.cli.screen import Screen
from ragline.cli.session import run_to_exit

if TYPE_CHECKING:
    from pathlib import Path

    from ragline.datafolder import DataFolder
    from ragline.settings import GeneratorSettings, Settings

_LOGIN = re.compile(r"(://[^/@:\s]*:)[^/\s]*@")
"""User and password in a URL."""

LEAST_FREE_BYTES = 1 << 30
"""Below this the data folder's disk is reported: an index is rewritten before the old one goes."""


MOST_DEAD = 1_000
"""Dead deliveries that are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    state: Literal["ok", "warning", "broken"]
    detail: str
    next_step: str = ""


def doctor(
    *, url: Url = None, key: Key = None, data_dir: DataDir = None, config: Config = None, as_json: Json = False,
    debug: Debug = False,
    deep: Annotated[bool, typer.Option("--deep", help="Compare registry, stores and blobs as well.")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="With --deep: repair what is found.")] = False,
) -> None:  # fmt: skip
    """Check settings, data folder, engines and models; say what is missing and the command that mends it.

    With --deep, every document's row, chunks and blobs are compared too; it works while the service runs.
    """

    given: dict[str, Path] = {}
    if data_dir:
        given["data_dir"] = data_dir
    if config:
        given["config"] = config
    audit = _Audit(deep, mend, data_dir, config)
    run_to_exit(_doctor(url, key, given, audit, Screen(as_json=as_json)), as_json=as_json, debug=debug)


@dataclass(frozen=True, slots=True)
class _Audit:
    """Whether to audit, and where."""

    deep: bool
    mend: bool
    data_dir: Path | None
    config: Path | None


async def _doctor(url: str | None, key: str | None, given: dict[str, Any], audit: _Audit, screen: Screen) -> None:
    from ragline import __version__, logs
    from ragline.settings import load_settings

    if audit.mend and not audit.deep:
        raise WrongUsage("--mend has nothing to mend.", next_step="Say --deep --mend: the audit finds it first.")
    logs.configure("error")
    settings = load_settings(**given)
    changed = _changed(settings)
    findings = [Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")]
    findings += await _remote(url, key) if url else await _local(settings)
    audited: dict[str, Any] | None = None
    if audit.deep and (url or settings.data_dir.exists()):

        async def looked() -> Finding:
            nonlocal audited
            audited = await deep_audit(url, key, audit.data_dir, audit.config, mend=audit.mend)
            left = len(audited["left"])
            return Finding("audit", "broken" if left else "ok", f"{left} findings" if left else "all agrees")

        findings.append(await _try("audit", looked))
    if screen.as_json:
        told = {"version": __version__, "settings": changed, "findings": [asdict(one) for one in findings]}
        screen.data(told | ({"audit": audited} if audit.deep else {}))
    else:
        screen.line(f"Ragline {__version__}. Settings that are not the default:")
        screen.facts([(f"  {name}", value) for name, value in changed.items()] or [("  none", "")])
        screen.line()
        screen.facts([(f"{one.state:<8}{one.part}", one.detail) for one in findings])
        steps = [one for one in findings if one.next_step]
        if steps:
            screen.line()
        for one in steps:
            screen.line(f"{one.part}: {one.next_step}")
        if audited is not None:
            show_audit(screen, audited, mend=audit.mend)
    if any(one.state == "broken" for one in findings):
        raise SomeFailed


def _changed(settings: Settings) -> dict[str, str]:
    """What differs from the defaults; secrets stay masked."""
    from ragline.settings import Settings as Defaults

    def flat(value: object, name: str) -> dict[str, str]:
        if isinstance(value, dict):
            return {k: v for key, one in value.items() for k, v in flat(one, f"{name}.{key}" if name else key).items()}
        return {name: _LOGIN.sub(r"\1***@", str(value))}

    now, default = flat(settings.model_dump(), ""), flat(Defaults.model_construct().model_dump(), "")
    return {name: value for name, value in now.items() if default.get(name) != value}


async def _remote(url: str, key: str | None) -> list[Finding]:
    from ragline.cli.connection import Where, connect
    from ragline.cli.failures import Refused

    async def answers() -> Finding:
        async with connect(Where(url=url, key=key)) as server:
            try:
                missing = (await server.get("readyz"))["missing"]
            except Refused as refused:
                return Finding(
                    "server", "broken", f"{url} is not ready: {refused.problem}", "Look at the server's log."
                )
            if missing:
                return Finding("server", "broken", f"{url} goes on without {'; '.join(missing)}", "Look at the engine.")
            names = [one["name"] for one in (await server.get("v1", "namespaces"))["namespaces"]]
            return Finding("server", "ok", f"{url} is ready; namespaces: {', '.join(names)}")

    return [await _try("server", answers)]


async def _local(settings: Settings) -> list[Finding]:
    from ragline.datafolder import DataFolder

    folder = DataFolder(settings.data_dir)
    findings = [_free(folder)]
    holder = folder.holder()
    if not settings.embedded:
        findings += await _stores(settings)
    elif holder is not None and holder.url:
        findings.append(Finding("data folder", "ok", f"{folder.path}, held by process {holder.pid}"))
        findings += await _remote(holder.url, holder.token)
    elif holder is not None:
        step = "Wait for that command to end, or look at what it does."
        findings.append(Finding("data folder", "warning", f"{folder.path} is held by process {holder.pid}", step))
    elif not folder.path.exists():
        step = "`ragline ingest PATH` or `ragline up` makes it."
        findings.append(Finding("data folder", "ok", f"{folder.path} is not there yet", step))
    else:
        findings += await _engines(settings, folder)
    findings.append(await _try("embedder", lambda: _embedder(settings)))
    if settings.reranker.url:
        findings.append(await _try("reranker", lambda: _reranker(settings)))
    findings += [_ocr(settings), _office(settings)]
    for number, one in enumerate(settings.generators, 1):
        name = f"generator {number}" if len(settings.generators) > 1 else "generator"
        findings.append(await _try(name, lambda one=one, name=name: _generator(one, settings, name)))  # type: ignore[misc]
    return findings


def _free(folder: DataFolder) -> Finding:
    place = next(path for path in (folder.path, *folder.path.parents) if path.exists())
    free = shutil.disk_usage(place).free
    words = f"{free / 2**30:.1f} GiB free at {place}"
    if free < LEAST_FREE_BYTES:
        return Finding("disk", "warning", words, "Free some space, or choose another folder with --data-dir.")
    return Finding("disk", "ok", words)


async def _engines(settings: Settings, folder: DataFolder) -> list[Finding]:
    """The stores of a folder that nobody holds; held while we look."""

    async def held() -> Finding:
        folder.take("")
        return Finding("data folder", "ok", f"{folder.path}, held by nobody")

    findings = [await _try("data folder", held)]
    if findings[0].state == "ok":
        try:
            findings += await _stores(settings)
        finally:
            folder.release()
    return findings


async def _stores(settings: Settings) -> list[Finding]:
    findings = [
        await _try(part, lambda look=look: look(settings))  # type: ignore[misc]
        for part, look in (
            ("registry", _registry),
            ("jobs", _jobs),
            ("webhooks", _webhooks),
            ("vectors", _vectors),
            ("keywords", _keywords),
        )
    ]
    if settings.cache.url not in ("", "off", "memory://"):
        findings.append(await _try("cache", lambda: _cache(settings)))
    if settings.blobs:
        findings.append(await _try("blobs", lambda: _blobs(settings)))
    return [*findings, *_domains(settings)]


async def _registry(settings: Settings) -> Finding:
    from ragline.clock import SystemClock
    from ragline.connections.database import Database, sqlite_url
    from ragline.registry.documents import Documents
    from ragline.registry.migrations import SCHEMA
    from ragline.registry.namespaces import Namespaces

    path = settings.data_dir.absolute() / "registry.sqlite"
    if not settings.registry and not path.exists():
        return Finding("registry", "ok", f"{path} is not there yet", "`ragline up` makes it.")
    database = await Database.open(settings.registry or sqlite_url(path), SCHEMA)
    try:
        names = await Namespaces(database, SystemClock()).all()
        waiting = await Documents(database, SystemClock()).waiting()
    finally:
        await database.aclose()
    step = "`ragline up` processes them." if waiting else ""
    return Finding("registry", "ok", f"{len(names)} namespaces, {waiting} documents waiting", step)


async def _jobs(settings: Settings) -> Finding:
    from ragline.build import open_job_store
    from ragline.clock import SystemClock

    path = settings.data_dir.absolute() / "jobs.sqlite"
    if not settings.jobs_url and not path.exists():
        return Finding("jobs", "ok", f"{path} is not there yet", "`ragline up` makes it.")
    store = await open_job_store(settings, SystemClock())
    try:
        lengths = await store.lengths()
    finally:
        await store.aclose()
    return Finding("jobs", "ok", ", ".join(f"{many} in {queue}" for queue, many in lengths.items()))


async def _webhooks(settings: Settings) -> Finding:
    """What signs, and what was given up. No receiver is called: that would be a delivery."""
    from ragline.build import open_job_store
    from ragline.clock import SystemClock
    from ragline.webhooks.signing import SET_ONE, Signing

    signing = Signing(settings)
    if not signing.possible:
        return Finding("webhooks", "ok", "none is accepted: webhooks.secrets is not set", SET_ONE)
    if signing.file is not None and not signing.file.exists():
        return Finding("webhooks", "ok", "the secret is made with the first of them, or by `ragline webhooks secret`")
    many = len(await signing.secrets())
    store = await open_job_store(settings, SystemClock())
    try:
        dead = len(await store.deliveries(principal=None, state="dead", most=MOST_DEAD))
    finally:
        await store.aclose()
    words = f"{many} secrets sign" if many > 1 else "a secret signs"
    if dead:
        step = "`ragline webhooks list --state dead` says why; `ragline webhooks replay ID` sends one again."
        return Finding("webhooks", "warning", f"{words}; {dead}{'+' * (dead == MOST_DEAD)} dead", step)
    return Finding("webhooks", "ok", f"{words}; none is dead")


async def _cache(settings: Settings) -> Finding:
    from ragline.build import open_cache
    from ragline.clock import SystemClock

    cache = open_cache(settings, SystemClock())
    assert cache, "a URL that is not off opens one"
    try:
        await cache.check()
        return Finding("cache", "ok", f"{await cache.size()} entries")
    finally:
        await cache.aclose()


async def _vectors(settings: Settings) -> Finding:
    from ragline.build import open_vectors

    store = open_vectors(settings)
    try:
        return Finding("vectors", "ok", f"{len(await store.collections())} collections")
    finally:
        await store.aclose()


async def _keywords(settings: Settings) -> Finding:
    from ragline.build import open_keywords

    index = open_keywords(settings)
    try:
        return Finding("keywords", "ok", f"{len(await index.collections())} collections")
    finally:
        await index.aclose()


async def _blobs(settings: Settings) -> Finding:
    """Listed, written, read and deleted: each is a right of its own."""
    from ragline.blobs import open_blobs

    blobs, probe = open_blobs(settings.blobs), f"probe-{secrets.token_hex(8)}"
    folders = await blobs.folders()
    await blobs.put(f"{probe}/one", b"a probe")
    await blobs.get(f"{probe}/one")
    await blobs.delete(probe)
    return Finding("blobs", "ok", f"{len(folders)} namespaces in {settings.blobs}")


def _domains(settings: Settings) -> list[Finding]:
    """Two legs on one cluster fall together."""
    from ragline.build import ONE_DOMAIN, shared_hosts

    if not (hosts := shared_hosts(settings)):
        return []
    step = "Leave `keywords` empty for the embedded index, or give it a cluster of its own, where that matters to you."
    words = f"vectors and keywords stand on {hosts}: one failure domain; {ONE_DOMAIN}"
    return [Finding("failure domains", "warning", words, step)]


def _ocr(settings: Settings) -> Finding:
    """Scans and images are read by Tesseract, in the languages it has data for."""
    import subprocess

    from ragline.parsing import ocr, programs

    program = programs.installed("tesseract")
    if not settings.ingest.ocr:
        return Finding("OCR", "ok", "switched off by ingest.ocr")
    if program is None:
        return Finding("OCR", "ok", "Tesseract is not installed: scans and images end `failed`", ocr.INSTALL)
    said = subprocess.run([program, "--list-langs"], capture_output=True, text=True, check=False, timeout=60).stdout
    known, wanted = set(said.split()), settings.ingest.ocr_languages.split("+")
    if missing := [language for language in wanted if language not in known]:
        return Finding("OCR", "warning", f"{program} has no data for {', '.join(missing)}", ocr.languages_step(missing))
    return Finding("OCR", "ok", f"{program}, {settings.ingest.ocr_languages}")


def _office(settings: Settings) -> Finding:
    """DOC and PPT are read by LibreOffice."""
    from ragline.parsing import legacy, programs

    program = programs.installed("soffice", "libreoffice")
    if not settings.ingest.office:
        return Finding("DOC and PPT", "ok", "switched off by ingest.office")
    if program is None:
        return Finding("DOC and PPT", "ok", "LibreOffice is not installed: these end `failed`", legacy.INSTALL)
    return Finding("DOC and PPT", "ok", program)


async def _embedder(settings: Settings) -> Finding:
    from ragline.build import open_embedder

    model = await open_embedder(settings)
    try:
        await model.embed(["a probe"], purpose="query")
        where = f" from {settings.embedder.source}" if settings.embedder.url.startswith("local:") else ""
        return Finding("embedder", "ok", f"{model.space.id}, {settings.embedder.url}{where}")
    finally:
        await model.aclose()


async def _reranker(settings: Settings) -> Finding:
    from ragline.build import open_reranker

    model = await open_reranker(settings.reranker)
    assert model
    try:
        await model.rerank("a probe", ["a text"])
        return Finding("reranker", "ok", model.name)
    finally:
        await model.aclose()


async def _generator(one: GeneratorSettings, settings: Settings, name: str) -> Finding:
    """An HTTP generator is asked for its models: that costs no tokens."""
    if one.url.removeprefix("anthropic+").startswith(("http://", "https://")):
        return await _asked(one, name)
    from ragline.build import open_embedder, open_generator

    model = await open_embedder(settings)
    try:
        generator = open_generator(one, model)
        await generator.aclose()
    finally:
        await model.aclose()
    return Finding(name, "ok", generator.name)


async def _asked(one: GeneratorSettings, name: str) -> Finding:
    import httpx

    headers = {"Authorization": f"Bearer {one.api_key.get_secret_value()}"} if one.api_key else {}
    try:
        async with httpx.AsyncClient(headers=headers, timeout=10.0) as http:
            if one.url.startswith("anthropic+"):
                from ragline.generators.anthropic import VERSION

                http.headers["anthropic-version"] = VERSION
            answer = await http.get(f"{one.url.removeprefix('anthropic+').rstrip('/')}/models")
    except httpx.HTTPError as error:
        return Finding(name, "broken", f"{one.url} does not answer: {error}", "Start it, or correct generators.url.")
    if answer.status_code in (401, 403):
        return Finding(name, "broken", f"{one.url} refuses the key", "Correct generators.api_key.")
    if answer.status_code >= 500:
        return Finding(name, "broken", f"{one.url} answers {answer.status_code}", "Look at that server's log.")
    return Finding(name, "ok", f"{one.url} answers")


async def _try(part: str, look: Callable[[], Awaitable[Finding]]) -> Finding:
    from ragline.errors import RaglineError

    try:
        return await look()
    except RaglineError as error:
        return Finding(part, "broken", error.message, error.next_step)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other parts are still to be looked at
        return Finding(part, "broken", f"{type(error).__name__}: {error}", "Report it with `ragline doctor --json`.")
