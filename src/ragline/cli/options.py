"""The options that many commands share."""

from __future__ import annotations

import json
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
