"""A line that moves while work goes on, for a person at a terminal; for anyone else, nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from ragline.cli.screen import Screen

LOOK_S = (0.05, 0.75)
"""First and longest wait between two looks at how far the work has come."""

Show: TypeAlias = Callable[[int, int | None, str], None]
"""``show(done, total, words)``; a total of None is not known yet."""


def next_look(wait_s: float) -> float:
    return min(LOOK_S[1], wait_s * 1.5)


@contextmanager
def progress(screen: Screen, title: str) -> Iterator[Show]:
    if not screen.live:
        yield lambda done, total, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(), TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as drawn:
        task = drawn.add_task(title, total=None, words="")

        def show(done: int, total: int | None, words: str) -> None:
            drawn.update(task, completed=done, total=total, words=words)

        yield show
