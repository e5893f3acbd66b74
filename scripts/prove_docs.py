"""Write the table of experiments in docs/prove.md from their files: `python scripts/prove_docs.py`. A test fails while it is
stale."""

from __future__ import annotations

from pathlib import Path

from ragline.chaos.experiment import Experiment, Fault, shipped
from ragline.chaos.report import expected

PAGE = Path(__file__).resolve().parent.parent / "docs" / "prove.md"
BEGIN, END = "<!-- Made by scripts/prove_docs.py from src/ragline/chaos/experiments. -->\n", "<!-- End. -->\n"
KINDS = {
    "times": "{by:g} × what it can serve",
    "slow": "{by:g} s slower",
    "skew": "{by:g} s ahead",
    "kill": "killed every {by:g} s",
}


def page(now: str) -> str:
    """`now` with the table as it should be. Raises ValueError: it has no place for one."""
    head, rest = now.split(BEGIN)
    _, tail = rest.split(END)
    return head + BEGIN + table() + END + tail


def table() -> str:
    lines = ["| experiment | rung | fault | expected | protected by |", "|---|---|---|---|---|"]
    for one in sorted(shipped(), key=lambda one: (not one.core, one.rung, one.name)):
        name = f"**{one.name}**" if one.core else one.name
        faults = "; ".join(map(_fault, one.faults))
        needs = f" (needs {', '.join(one.needs)})" if one.needs else ""
        lines.append(f"| {name}{needs} | {one.rung} | {faults} | {expected(one)} | {_protected(one)} |")
    return "\n".join(lines) + "\n"


def _fault(fault: Fault) -> str:
    how = KINDS.get(fault.kind, fault.kind).format(by=fault.by)
    return f"`{fault.target}`: {how}, {fault.for_s:g} s"


def _protected(one: Experiment) -> str:
    settings = ", ".join(name.removeprefix("RAGLINE_").lower().replace("__", ".") for name in one.without)
    return f"{one.protects} (`{settings}`)" if one.without else "–"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
