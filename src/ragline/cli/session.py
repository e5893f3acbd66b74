"""What stands around every command: the shared options, the connection, the event loop, the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import typer

from ragline.cli.failures import DONE, FAILED, SIGNALLED, report
from ragline.cli.options import Config, DataDir, Debug, Json, Key, Url
from ragline.cli.screen import Screen

if TYPE_CHECKING:
    from ragline.cli.connection import Connection

P = ParamSpec("P")

STOP_S = 35.0
"""Longest that a server or a worker takes to stop: 10 s for requests in flight, 20 s for work, and what engines take to close."""


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command that talks to a server."""

    server: Connection
    screen: Screen


def command(
    *, makes_folder: bool = False, warm: bool = True
) -> Callable[[Callable[Concatenate[Session, P], Awaitable[None]]], Callable[..., None]]:
    """Make a typer command of ``async def name(session, …)``: adds --url, --key, --data-dir, --config, --json, --debug.

    `makes_folder`: without a server, a data folder that is not there yet is made, instead of being an error.
    `warm`: without a server, the stores are opened before the work: a search must not find them cold.
    """

    def decorate(work: Callable[Concatenate[Session, P], Awaitable[None]]) -> Callable[..., None]:
        def run(
            *, url: str | None, key: str | None, data_dir: Path | None, config: Path | None, as_json: bool, debug: bool,
            **arguments: Any,
        ) -> None:  # fmt: skip
            async def connected() -> None:
                from ragline.cli.connection import Where, connect

                where = Where(url=url, key=key, data_dir=data_dir, config=config)
                async with connect(where, makes_folder=makes_folder, warm=warm) as server:
                    await work(Session(server, Screen(as_json=as_json)), **arguments)  # type: ignore[call-arg]

            run_to_exit(connected(), as_json=as_json, debug=debug)

        own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + _SHARED
        run.__name__, run.__doc__ = work.__name__, work.__doc__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return run

    return decorate


def run_to_exit(
    work: Coroutine[Any, Any, None], *, as_json: bool, debug: bool,
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None, stop_s: float | None = None,
) -> None:  # fmt: skip
    """Run `work`; whatever it ends with becomes a message and an exit code. SIGTERM, and SIGHUP of a terminal that was closed,
    end it as orderly as Ctrl-C.

    `loop`: makes the event loop; None: asyncio's own. `stop_s`: seconds that an orderly end may take; then, and at a second
    signal, the process is gone as if killed, which loses nothing. None: as long as it takes.
    """
    ended_by = signal.SIGINT
    hangup, terminals = getattr(signal, "SIGHUP", None), [fd for fd in (1, 2) if os.isatty(fd)]

    async def stoppable() -> None:
        task, stopping = asyncio.current_task(), False
        assert task

        def stop(number: int) -> None:
            nonlocal ended_by, stopping
            if number == hangup:
                _let_go(terminals)  # before anything is said: a terminal that is gone fails each word
                if stopping:  # it comes twice, from the shell and from the kernel
                    return
            if stopping and stop_s is not None:
                _leave("It was told twice to stop")
            stopping, ended_by = True, signal.Signals(number)
            task.cancel()
            if stop_s is not None:  # in a thread: a loop that hangs is one of the reasons
                patience = threading.Timer(stop_s, _leave, [f"It did not end in order within {stop_s:.0f} s"])
                patience.daemon = True
                patience.start()

        with contextlib.suppress(NotImplementedError):  # not on Windows
            for number in _ending(hangup, ctrl_c=stop_s is not None):
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
        await work

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(stoppable())
    except asyncio.CancelledError:
        raise typer.Exit(SIGNALLED + ended_by) from None
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the end of the line: it becomes a message
        raise typer.Exit(report(error, as_json=as_json, debug=debug)) from None
    raise typer.Exit(DONE)


def _ending(hangup: signal.Signals | None, *, ctrl_c: bool) -> list[signal.Signals]:
    """Signals that end a command in order. `hangup`: where the system has it (not on Windows); what nohup ignores stays so.
    Ctrl-C is asyncio's own, unless the caller counts it."""
    hung_up = [hangup] if hangup and signal.getsignal(hangup) is not signal.SIG_IGN else []
    return [signal.SIGTERM, *hung_up, *([signal.SIGINT] if ctrl_c else [])]


def _let_go(terminals: list[int]) -> None:
    """What is still said goes nowhere, instead of being an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in terminals:
        os.dup2(nowhere, fd)
    os.close(nowhere)


def _leave(why: str) -> None:
    """An engine that is silent answers no farewell either. Work in hand is under leases, and accepted work is on the disk."""
    with contextlib.suppress(OSError, ValueError):  # nobody listens any more
        print(
            f"{why}, so it has left at once. Nothing that was accepted is lost: another process, or the next one, takes it up.",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    os._exit(FAILED)


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


_SHARED = [
    _option("url", Url, None),
    _option("key", Key, None),
    _option("data_dir", DataDir, None),
    _option("config", Config, None),
    _option("as_json", Json, False),
    _option("debug", Debug, False),
]
