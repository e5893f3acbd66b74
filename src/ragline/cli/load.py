"""`ragline load`: requests at a stated rate, and whether what is promised was kept.

0  ran, and kept what --slo-… promises       2  could not run: no server, no right, nothing to ask
1  ran, and missed it                        130  stopped by Ctrl-C, after showing what was seen
                                             (143 by SIGTERM, 129 with its terminal)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.failures import SomeFailed, WrongUsage
from ragline.cli.options import Config, DataDir, Debug, InNamespace, Json, Key, Url
from ragline.cli.progress import Show, progress
from ragline.cli.screen import Screen
from ragline.cli.session import run_to_exit
from ragline.cli.up import fast_loop
from ragline.errors import ConfigurationError

if TYPE_CHECKING:
    from ragline.chaos.load import Load
    from ragline.chaos.load_report import Slo
    from ragline.chaos.samples import Samples

SHOWN_EVERY_S = 0.5
RECENT_S = 10.0
"""What the line that moves is about."""

MOST_TITLES = 1000


def load(
    *, rate: Annotated[float, typer.Option("--rate", min=0.01, help="Requests a second, begun by the clock.")] = 10.0,
    seconds: Annotated[float, typer.Option("--for", min=0.1, help="Seconds; what is in flight then is waited for.")] = 60.0,
    namespace: InNamespace = "default",
    writes: Annotated[float, typer.Option("--write-share", min=0, max=1, help="Of the requests: changes of documents.")] = 0.0,
    answers: Annotated[float, typer.Option("--answers", min=0, max=1, help="Of the requests: answers, not searches.")] = 0.0,
    queries: Annotated[Path | None, typer.Option("--queries", help="A line a query; default: made of the titles.")] = None,
    zipf: Annotated[float, typer.Option("--zipf", min=0, help="How often the first queries come; 0: all alike.")] = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Passages of a search.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="The same seed asks the same at the same times.")] = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds until a request counts as lost.")] = 30.0,
    in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, help="Most at once; what is due beyond it is counted as unsent.")
    ] = 1000,
    slo_p95_ms: Annotated[
        float | None, typer.Option("--slo-p95-ms", min=0.1, help="95 % of the searches due must be answered in it.")
    ] = None,
    slo_errors: Annotated[
        float | None, typer.Option("--slo-errors", min=0, max=1, help="Most of all requests that may fail, a share.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with the curves here.")] = None,
    url: Url = None, key: Key = None, data_dir: DataDir = None, config: Config = None, as_json: Json = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Send requests at a steady rate, show the latencies, and say whether what is promised was kept."""
    if writes + answers > 1:
        raise typer.BadParameter("--write-share and --answers are more than 1 together")
    options = {
        "namespace": namespace, "rate": rate, "zipf": zipf, "writes": writes, "answers": answers, "top_k": top_k, "seed": seed,
        "timeout_s": timeout, "most_in_flight": in_flight,
    }  # fmt: skip

    async def work() -> None:
        from ragline.chaos.load import Load
        from ragline.chaos.load_report import Slo
        from ragline.chaos.queries import queries_of, read_queries
        from ragline.chaos.target import Target

        if html and not html.parent.is_dir():
            raise WrongUsage(f"There is no folder {html.parent}.", next_step="Make it, or correct --html.")
        server, its_key = _server(url, key, data_dir, config)
        if queries:
            asked = read_queries(queries)
        else:
            titles = await Target(server, its_key, timeout_s=timeout).titles(namespace, most=MOST_TITLES)
            asked = queries_of(titles, seed=seed)
        load = Load(server, its_key, queries=asked, **options)  # type: ignore[arg-type]
        await load.check()
        facts = {"server": server, **options, "for_s": seconds, "queries": len(asked)}
        screen = Screen(as_json=as_json)
        try:
            await _run(load, seconds, screen)
        finally:  # also of Ctrl-C
            missed = _show(screen, load, facts, Slo(slo_p95_ms, slo_errors), html)
        if missed:
            raise SomeFailed

    run_to_exit(work(), as_json=as_json, debug=debug, loop=fast_loop())


async def _run(load: Load, seconds: float, screen: Screen) -> None:
    with progress(screen, "Load") as show:
        watching = asyncio.create_task(_watch(load, seconds, show)) if screen.live else None
        try:
            await load.run(seconds)
        finally:
            if watching:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching


async def _watch(load: Load, seconds: float, show: Show) -> None:
    while True:
        await asyncio.sleep(SHOWN_EVERY_S)
        now_s = load.elapsed_s
        seen = load.since(now_s - RECENT_S)
        p50, p95 = (
            f"{value:.0f}" if value is not None else "–" for value in (seen.percentile(50), seen.percentile(95))
        )
        words = f"s  p50 {p50} ms  p95 {p95} ms  {load.in_flight} in flight  {seen.failed} failed"
        show(min(int(now_s), int(seconds)), int(seconds), words)


def _show(screen: Screen, load: Load, facts: Mapping[str, Any], slo: Slo, html: Path | None) -> list[str]:
    """The figures, and the page; returns what was promised and not kept."""
    from ragline.chaos.load_report import cautions, page

    samples: Samples = load.samples
    missed = slo.missed(samples)
    for caution in cautions(samples):
        screen.note(caution)
    if load.left_behind:
        screen.note(f"Left behind, delete it with `ragline namespaces delete`: {load.left_behind}")
    if html:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        html.write_text(page(samples, {"written": stamp, **facts}, slo), "utf-8")
    if screen.as_json:
        kinds = {kind.value: samples.of(kind).as_json() for kind in sorted({one.kind for one in samples})}
        screen.data(
            {
                "facts": dict(facts), "ran_s": round(samples.for_s, 3), "all": samples.as_json(), "kinds": kinds,
                "missed": missed, "cautions": cautions(samples), "left_behind": load.left_behind or None,
            }
        )  # fmt: skip
        return missed
    columns, rows = samples.table()
    screen.table(columns, rows)
    for name, counts in (("outcomes", samples.outcomes()), ("degraded", samples.degraded())):
        if counts:
            screen.line(f"{name}: {', '.join(f'{count} × {what}' for what, count in sorted(counts.items()))}")
    screen.line(
        f"{len(samples)} due in {samples.for_s:.1f} s, {sum(one.cached for one in samples)} of them from the cache."
    )
    for one in missed:
        screen.line(f"Missed {one}.")
    if not missed and (slo.p95_ms, slo.errors) != (None, None):
        screen.line("Kept what was promised.")
    return missed


def _server(url: str | None, key: str | None, data_dir: Path | None, config: Path | None) -> tuple[str, str | None]:
    """Where to ask, and with which key. A server of its own, always: in one process with it, the load would measure itself."""
    if url:
        return url, key
    from ragline.datafolder import DataFolder
    from ragline.settings import load_settings

    given = {"config": config, "data_dir": data_dir}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    holder = DataFolder(settings.data_dir).holder()
    if holder is None or not holder.url:
        raise ConfigurationError(
            f"No server answers for the data folder {settings.data_dir}.",
            next_step="Start one with `ragline up`, or name one with --url.",
        )
    return holder.url, key or holder.token
