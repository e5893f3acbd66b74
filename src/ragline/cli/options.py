"""The options that many commands share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from ragline.cli.failures import WrongUsage

Url: TypeAlias = Annotated[
    str | None,
    typer.Option("--url", envvar="RAGLINE_URL", help="Server to talk to; left out: the data folder on this machine."),
]
Key: TypeAlias = Annotated[str | None, typer.Option("--key", envvar="RAGLINE_KEY", help="API key for the server.")]
DataDir: TypeAlias = Annotated[Path | None, typer.Option("--data-dir", help="Data folder; default: .ragline here.")]
Config: TypeAlias = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="JSON on stdout, errors as JSON on stderr.")]
Debug: TypeAlias = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
InNamespace: TypeAlias = Annotated[str, typer.Option("--namespace", "-n", help="Corpus to work on.")]

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str, option: str) -> int:
    """Raises WrongUsage: `text` is no length of time."""
    match = re.fullmatch(r"(\d+)([smhdw])", text)
    if match is None:
        raise WrongUsage(f"{option} {text!r} is no length of time.", next_step="Write it as 90s, 15m, 12h, 30d or 4w.")
    return int(match[1]) * UNITS_S[match[2]]


def json_object(text: str | None, option: str) -> dict[str, Any]:
    """Raises WrongUsage: `text` is not a JSON object."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongUsage(
            f"{option} is not valid JSON: {error}.", next_step=f'Write it as {option} \'{{"name": "value"}}\'.'
        ) from error
    if not isinstance(value, dict):
        raise WrongUsage(
            f"{option} must be a JSON object, not {text[:60]!r}.",
            next_step=f'Write it as {option} \'{{"name": "value"}}\'.',
        )
    return value
