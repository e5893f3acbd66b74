"""`ragline prove`: break one engine after the other under load, and show that it goes on answering."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragline.cli.failures import SomeFailed, WrongUsage
from ragline.cli.options import Debug, Json
from ragline.cli.screen import Screen
from ragline.cli.session import run_to_exit

if TYPE_CHECKING:
    from ragline.chaos.experiment import Experiment
    from ragline.chaos.proving import Pace
    from ragline.chaos.verdict import Verdict
    from ragline.settings import Settings

FOLDERS = "ragline-prove-"

HASTY = {"RAGLINE_CACHE__TTL_S": "2"}
"""Of each process under test: a cached entry's time is over soon, so that those that outlive it are needed."""

LOCAL = {
    **HASTY,
    "RAGLINE_LOG_LEVEL": "warning",
    "RAGLINE_CACHE__AUDIT_SHARE": "0.1",
    "RAGLINE_QUERY__RECALL_SHARE": "0.05",
    "RAGLINE_RERANKER__DEADLINE_MS": "200",
    "RAGLINE_INGEST__PARSE_PROCESSES": "1",
    "RAGLINE_INGEST__STALE_AFTER_S": "15",
    "RAGLINE_WEBHOOKS__ALLOW_HTTP": "true",
    "RAGLINE_WEBHOOKS__ALLOW_NETWORKS": '["127.0.0.0/8"]',
    "RAGLINE_WEBHOOKS__ATTEMPTS": "2",
    "RAGLINE_WEBHOOKS__FIRST_BACKOFF_S": "0.5",
}
"""Of a local proof, whose minutes are seconds: a document is stale after 15 s, a webhook dead after its second try; of few
queries a larger share is measured."""


class Render(StrEnum):
    CHAOS_MESH = "chaos-mesh"
    GREMLIN = "gremlin"


def prove(
    *,
    local: Annotated[bool, typer.Option("--local", help="On embedded engines and played models, in its own folder.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every experiment, not only one for each rung.")] = False,
    only: Annotated[list[str] | None, typer.Option("--only", help="These, by name; may be repeated.")] = None,
    file: Annotated[list[Path] | None, typer.Option("--file", help="An experiment of yours; may be repeated.")] = None,
    without: Annotated[
        bool, typer.Option("--without", help="Each with the setting off that protects it: every one must fail.")
    ] = False,
    rate: Annotated[float, typer.Option("--rate", min=1.0, help="Queries a second.")] = 50.0,
    stretch: Annotated[float, typer.Option("--stretch", min=0.1, help="Times as long as the files say.")] = 1.0,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for prove.md, prove.json and prove.html.")] = None,
    alerts: Annotated[
        Path | None,
        typer.Option("--alerts", help="Folder with the alert rules: a Prometheus watches with them, a minute being a second."),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the experiments, and run none.")] = False,
    render: Annotated[
        Render | None, typer.Option("--render", help="Write them for this tool, all or those of --only, and run none.")
    ] = None,
    folder: Annotated[Path | None, typer.Argument(help="Where --render writes, a file each; else to the screen.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", help="Of the cluster, for --render.")] = "ragline",
    select: Annotated[
        list[str] | None,
        typer.Option("--select", help="PART=LABEL=VALUE for --render: by what a part's pods are found; may be repeated."),
    ] = None,
    as_json: Json = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Break one engine after the other under load; show rung by rung what was expected, what was seen, and whether it held.

    Without --local it joins your engines, by your settings, with a process and a namespace of its own: faults are played on
    that process's connections, or inside it, and no other process sees them.
    """
    screen = Screen(as_json=as_json)
    if folder and not render:
        raise typer.BadParameter("FOLDER is where --render writes; --report has one of its own.")
    if render:
        run_to_exit(
            _render(screen, render, only=only or [], files=file or [], folder=folder, namespace=namespace, select=select or []),
            as_json=as_json, debug=debug,
        )  # fmt: skip
        return
    run_to_exit(
        _prove(
            screen, local=local, every=every, only=only or [], files=file or [], without=without, rate=rate,
            stretch=stretch, report=report, alerts=alerts, listing=listing,
        ),
        as_json=as_json, debug=debug,
    )  # fmt: skip


def _chosen(*, every: bool, only: Sequence[str], files: Sequence[Path]) -> list[Experiment]:
    """Raises ConfigurationError: a file is no experiment.  WrongUsage: there is none of that name."""
    from ragline.chaos.experiment import load, shipped

    known = shipped()
    if unknown := sorted(set(only) - {one.name for one in known}):
        raise WrongUsage(f"There is no experiment {unknown[0]!r}.", next_step="`ragline prove --list` shows them.")
    if only or files:
        return [*(one for one in known if one.name in only), *map(load, files)]
    return [one for one in known if every or one.core]


async def _prove(
    screen: Screen, *, local: bool, every: bool, only: Sequence[str], files: Sequence[Path], without: bool,
    rate: float, stretch: float,
    report: Path | None, alerts: Path | None, listing: bool,
) -> None:  # fmt: skip
    chosen = _chosen(every=every, only=only, files=files)
    if without:
        chosen = [one for one in chosen if one.without]
    if listing:
        rows = [(one.name, one.rung, one.title, "core" if one.core else "", one.protects) for one in chosen]
        return screen.table(("experiment", "rung", "what fails", "", "protected by"), rows)
    import ragline.chaos.report  # noqa: F401  (now: an upgrade meanwhile must not cost the report at the end)
    from ragline.chaos.alarms import program, rules_in
    from ragline.chaos.proving import Pace
    from ragline.settings import load_settings

    settings = None if local else load_settings()
    if settings and (embedded := settings.embedded):
        raise WrongUsage(
            f"By these settings {', '.join(embedded)} are embedded: there is no stack to join.",
            next_step="Say --local, which proves the embedded engines in a folder of its own.",
        )
    if alerts is not None:  # told before anything starts
        rules_in(alerts)
        program()
    verdicts: list[Verdict] = []
    pace = Pace(rate=rate, stretch=stretch)
    with _folder() as folder:
        for group in _by_settings(chosen, without=without):
            verdicts += await _run(screen, folder, group, settings, alerts, without=without, pace=pace)
    command = command_line(
        local=local, every=every, only=only, files=files, without=without, alerts=alerts, rate=rate, stretch=stretch
    )
    _told(screen, verdicts, report, command=command)
    if not verdicts or any(one.green is without for one in verdicts):
        raise SomeFailed
    return None


async def _render(
    screen: Screen, tool: Render, *, only: Sequence[str], files: Sequence[Path], folder: Path | None, namespace: str,
    select: Sequence[str],
) -> None:  # fmt: skip
    from ragline.chaos import rendering

    cluster = rendering.Cluster(namespace, _labels(select, rendering.PARTS))
    by = {Render.CHAOS_MESH: rendering.chaos_mesh, Render.GREMLIN: rendering.gremlin}[tool]
    written: dict[str, str] = {}
    for one in _chosen(every=True, only=only, files=files):
        if not (texts := by(one, cluster)):
            screen.note(f"left out: {one.name} has no meaning for {tool.value}.")
        written |= texts
    if folder is None:
        screen.line(json.dumps(written, indent=1) if screen.as_json else "\n".join(written.values()).rstrip())
        return
    _write(folder, written)
    screen.note(f"Written: {len(written)} files to {folder}. Nothing was run.")


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)


def _labels(select: Sequence[str], parts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Part → its labels. Raises WrongUsage."""
    found: dict[str, dict[str, str]] = {}
    for one in select:
        part, _, label = one.partition("=")
        name, _, value = label.partition("=")
        if part not in parts or not name or not value:
            raise WrongUsage(
                f"--select {one}: it is PART=LABEL=VALUE.",
                next_step=f"Such as vectors=app.kubernetes.io/name=milvus; parts are {', '.join(parts)}.",
            )
        found.setdefault(part, {})[name] = value
    return found


def _by_settings(chosen: Sequence[Experiment], *, without: bool) -> Iterator[list[Experiment]]:
    """Those that one process can run: without their protection, those that lose it by the same settings."""
    if not without:
        yield list(chosen)
        return
    kinds: dict[tuple[tuple[str, str], ...], list[Experiment]] = {}
    for one in chosen:
        kinds.setdefault(tuple(sorted(one.without.items())), []).append(one)
    yield from kinds.values()


async def _run(
    screen: Screen,
    folder: Path,
    group: Sequence[Experiment],
    settings: Settings | None,
    rules: Path | None,
    *,
    without: bool,
    pace: Pace,
) -> list[Verdict]:
    """`settings`: of the user's stack; None: embedded engines and played models. `rules`: of alerts; None: nobody looks."""
    from ragline.chaos.alarms import Alarms
    from ragline.chaos.llm import Llm
    from ragline.chaos.proving import Proving
    from ragline.chaos.receivers import Receivers
    from ragline.chaos.reranker import reranker
    from ragline.chaos.stack import Stack
    from ragline.chaos.wires import Wires

    verdicts: list[Verdict] = []
    async with AsyncExitStack() as stack:
        variables: Mapping[str, str] = {**HASTY, **(group[0].without if without else {})}
        llm, receivers, wires = None, None, Wires(settings) if settings else None
        if settings is None:
            llm = await stack.enter_async_context(Llm().serving())
            receivers = await stack.enter_async_context(Receivers().serving())
            reranks = await stack.enter_async_context(reranker())
            variables = {**LOCAL, **played_by(llm.url, reranks, receivers.edge), **variables}
        screen.note("Starting what is to be proved …")
        under_test = await stack.enter_async_context(Stack(folder / f"stack-{id(group)}", variables, wires=wires))
        if wires:
            for target, why in wires.inside.items():
                screen.note(f"{target}: faults are played inside the process, not on its connections: {why}.")
            for command in await under_test.left():
                screen.note(f"Left by a proof that was killed, if none runs elsewhere now; remove it: {command}")
        has = await under_test.has()
        alarms = None
        if rules is not None:
            alarms = await stack.enter_async_context(Alarms(folder / f"alarms-{id(group)}", rules, under_test.url))
        proving = Proving(under_test, pace, llm=llm, receivers=receivers, tell=screen.note, alarms=alarms)
        for one in group:
            if missing := [part for part in one.needs if part not in has or (part == "llm" and llm is None)]:
                screen.note(f"skipped  {one.name}: there is no {', '.join(missing)} here.")
                continue
            verdict = await proving.run(one)
            verdicts.append(verdict)
            screen.note(
                f"{'green' if verdict.green else 'RED  '}    {one.name}: {'; '.join(verdict.faults) or one.title}"
            )
    return verdicts


def played_by(llm: str, reranks: str, edge: str, *, timeout_s: float = 5.0) -> dict[str, str]:
    """Settings for models and an edge that are played, by their URLs."""
    generator = f'[{{"url": "{llm}", "model": "played", "timeout_s": {timeout_s:g}}}]'
    return {"RAGLINE_GENERATORS": generator, "RAGLINE_RERANKER__URL": f"tei+{reranks}", "RAGLINE_EDGE__URL": edge}


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary one; those of proofs that were killed go as well."""
    from filelock import FileLock, Timeout

    with tempfile.TemporaryDirectory(prefix=FOLDERS) as folder, FileLock(Path(folder, "lock")):
        for other in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*/lock"):
            with suppress(Timeout, OSError), FileLock(other, blocking=False):  # one that runs, or is another user's
                shutil.rmtree(other.parent)
        yield Path(folder)


def _told(screen: Screen, verdicts: Sequence[Verdict], report: Path | None, *, command: str) -> None:
    from ragline import __version__
    from ragline.chaos.report import as_html, as_json, markdown

    about = {"command": command, "version": __version__, "machine": _machine()}
    if report:
        report.mkdir(parents=True, exist_ok=True)
        for name, written in (("prove.md", markdown), ("prove.json", as_json), ("prove.html", as_html)):
            (report / name).write_text(written(verdicts, **about))
        screen.note(f"Written: {report}/prove.md, prove.json, prove.html.")
    screen.line(as_json(verdicts, **about) if screen.as_json else markdown(verdicts, **about))


def command_line(
    *, local: bool, every: bool, only: Sequence[str], files: Sequence[Path], without: bool, alerts: Path | None, rate: float,
    stretch: float,
) -> str:  # fmt: skip
    """By which a report was made, as its reader can type it."""
    said = {"--local": local, "--all": every, "--without": without}
    words = ["ragline prove", *(word for word, given in said.items() if given)]
    words += [*(f"--only {name}" for name in only), *(f"--file {file}" for file in files)]
    words += [f"--alerts {alerts}"] if alerts else []
    return " ".join([*words, f"--rate {rate:g}", *([f"--stretch {stretch:g}"] if stretch != 1 else [])])


def _machine() -> str:
    import os

    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
