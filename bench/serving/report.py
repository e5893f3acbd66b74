"""The results as Markdown: tables, and plots that a Markdown viewer draws (Mermaid)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEAD = "| system | callers | answers a second | p50 ms | p95 ms | p99 ms | processor ms a request | resident MiB |"


def markdown(results: dict[str, Any]) -> str:
    parts = [_machine(results)]
    if results["rows"]:
        parts += [_corpora(results), _plot(results["rows"])]
    for corpus in results["corpora"]:
        rows = [one for one in results["rows"] if one["chunks"] == corpus["chunks"]]
        parts.append(f"### {corpus['chunks']:,} chunks\n\n{_table(rows)}\n\n{_ratios(rows)}")
    if "steady" in results:
        parts.append(_steady(results["steady"]))
    if "frameworks" in results:
        parts.append(f"### Beside frameworks\n\n{_table(results['frameworks'])}")
    return "\n\n".join(parts) + "\n"


def _machine(results: dict[str, Any]) -> str:
    one = results["machine"]
    vnni = "with" if one["vnni"] else "without"
    return (
        f"{one['cores']} cores of {one['processor']} ({vnni} VNNI), Python {one['python']}; each load {results['seconds']:g} s, "
        f"{results['rounds']} rounds, medians. The raw embedder takes {results['embed_cpu_ms']:.2f} ms of processor a query."
    )


def _corpora(results: dict[str, Any]) -> str:
    lines = ["| chunks | of these with vectors of their own | ready after, s |", "|---|---|---|"]
    lines += [f"| {one['chunks']:,} | {one['real']:,} | {one['ready_s']:.1f} |" for one in results["corpora"]]
    return "\n".join(lines)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [HEAD, "|---" * 8 + "|"]
    for one in rows:
        errors = f" ({one['errors']} errors)" if one["errors"] else ""
        lines.append(
            f"| {one['system']} | {one['callers']} | {one['rate']:.0f}{errors} | {one['p50_ms']:.1f} | {one['p95_ms']:.1f} | "
            f"{one['p99_ms']:.1f} | {one['cpu_ms']:.2f} | {one['resident_mib']:.0f} |"
        )
    return "\n".join(lines)


def _ratios(rows: Sequence[dict[str, Any]]) -> str:
    bare = {one["callers"]: one["rate"] for one in rows if one["system"] == "bare parts"}
    ours = [one for one in rows if one["system"] == "ragline" and one["callers"] in bare]
    words = (f"{one['rate'] / bare[one['callers']]:.2f} × at {one['callers']}" for one in ours)
    return f"Answers a second, ragline to bare parts: {', '.join(words)} callers."


def _plot(rows: Sequence[dict[str, Any]]) -> str:
    """p50 of one caller, and answers a second of most callers, over the sizes."""
    ours = [one for one in rows if one["system"] == "ragline"]
    sizes = sorted({one["chunks"] for one in ours})
    counts = sorted({one["callers"] for one in ours})
    axis = ", ".join(f'"{size:,}"' for size in sizes)
    rate = {(one["chunks"], one["callers"]): one["rate"] for one in ours}
    lines = [f"    line [{', '.join(f'{rate[size, count]:.0f}' for size in sizes)}]" for count in counts]
    named = ", ".join(map(str, counts))
    head = [
        "```mermaid",
        "xychart-beta",
        f'    title "Answers a second; callers: {named}"',
        f"    x-axis chunks [{axis}]",
    ]
    return "\n".join([*head, '    y-axis "answers a second" 0 --> ' + f"{max(rate.values()) * 1.1:.0f}", *lines, "```"])


def _steady(found: dict[str, Any]) -> str:
    rest, beside = found["at rest"], found["beside ingest"]
    alone, with_load = found["ingest alone, chunks/s"], found["ingest beside, chunks/s"]
    lines = [
        f"### {found['rate']:g} requests a second, begun by the clock",
        "",
        "| | p50 ms | p95 ms | p99 ms | longest ms | errors |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {' | '.join(f'{one[key]:.1f}' for key in ('p50_ms', 'p95_ms', 'p99_ms', 'most_ms'))} | {one['errors']} |"
            for name, one in (("at rest", rest), ("while ingesting flat out", beside))
        ),
        "",
        f"p95 beside ingest is {beside['p95_ms'] / rest['p95_ms']:.1f} × that at rest. "
        f"Ingest: {alone:.0f} chunks a second alone, {with_load:.0f} beside the requests ({with_load / alone:.0%}). "
        f"Resident: {found['resident_mib']:.0f} MiB.",
        "",
        f"Callbacks of the event loop over 20 ms in {found['seconds']:g} s of both: {found['callbacks over 20 ms']} by "
        f"the clock, {len(found['callbacks over 20 ms of processor time'])} by processor time.",
    ]
    return "\n".join(lines)
