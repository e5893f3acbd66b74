"""What a command ends with: exit codes, and errors that a person and a script can both read.

    0  done                                3    no Ragline server, or an engine of it, can be reached
    1  the request, or a document, failed  130  interrupted by Ctrl-C (143 by SIGTERM, 129 with its terminal)
    2  usage or configuration

Errors of usage that typer finds itself are its own plain text, also under --json.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from ragline.errors import ConfigurationError, EngineTimeout, EngineUnavailable, RaglineError

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
SIGNALLED = 128
"""And the signal's number."""


class WrongUsage(RaglineError):
    """What was typed cannot be meant."""


class NotReachable(RaglineError):
    """No server answered."""

    retryable = True


class Refused(RaglineError):
    """A server answered, and said no; `problem` is its body (RFC 9457). Units: `retry_after_s` seconds."""

    def __init__(self, problem: Mapping[str, Any], *, http_status: int, retry_after_s: float | None = None) -> None:
        super().__init__(str(problem.get("detail", "")), next_step=str(problem.get("next_step", "")))
        self.problem = problem
        self.http_status = http_status
        self.retry_after_s = retry_after_s


class SomeFailed(Exception):
    """The command said itself, in its result, what has failed."""


def exit_code(error: BaseException) -> int:
    match error:
        case KeyboardInterrupt():
            return INTERRUPTED
        case ConfigurationError() | WrongUsage():
            return USAGE
        case NotReachable() | EngineUnavailable() | EngineTimeout():
            return UNREACHABLE
        case _:
            return FAILED


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Say on stderr what went wrong and what to do about it; returns the exit code."""
    if isinstance(error, SomeFailed):
        return FAILED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left: end without a word
        return FAILED
    if debug and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    if as_json:
        print(json.dumps(_problem(error), ensure_ascii=False), file=sys.stderr)
        return exit_code(error)
    match error:
        case KeyboardInterrupt():
            print("interrupted", file=sys.stderr)
        case RaglineError():
            print(f"error: {error.message}\nnext: {error.next_step}", file=sys.stderr)
        case _:
            print(f"error: Ragline failed in a way it should not: {_what(error)}", file=sys.stderr)
            print("next: Report it with what the same command says under --debug.", file=sys.stderr)
    return exit_code(error)


def _problem(error: BaseException) -> dict[str, Any]:
    match error:
        case Refused():
            return dict(error.problem)
        case RaglineError():
            kind, detail, next_step, retryable = type(error).__name__, error.message, error.next_step, error.retryable
        case KeyboardInterrupt():
            kind, detail, next_step, retryable = "Interrupted", "interrupted", "Run the command again.", True
        case _:
            kind, detail, retryable = "Defect", _what(error), False
            next_step = "Report it with what the same command says under --debug."
    return {"type": f"about:blank#{kind}", "detail": detail, "next_step": next_step, "retryable": retryable}


def _what(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
