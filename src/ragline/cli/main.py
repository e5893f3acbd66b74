"""The program `ragline`. Imports nothing heavy: each command imports what it needs when it runs."""

from __future__ import annotations

import platform
import sys

import typer

from ragline import __version__
from ragline.cli.ask import ask, search
from ragline.cli.backup import backup, restore
from ragline.cli.cache import cache
from ragline.cli.doctor import doctor
from ragline.cli.documents import documents
from ragline.cli.evaluate import evaluate
from ragline.cli.ingest import ingest
from ragline.cli.jobs import jobs
from ragline.cli.keys import keys
from ragline.cli.load import load
from ragline.cli.namespaces import namespaces
from ragline.cli.options import Json
from ragline.cli.prove import prove
from ragline.cli.reindex import reindex
from ragline.cli.screen import Screen
from ragline.cli.status import status
from ragline.cli.tune import tune
from ragline.cli.up import serve, up
from ragline.cli.webhooks import webhooks
from ragline.cli.work import work

app = typer.Typer(
    name="ragline",
    help="Documents in, cited answers out.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help comes without loading Rich
)


@app.command()
def version(as_json: Json = False) -> None:
    """Show the versions of Ragline and of Python."""
    screen = Screen(as_json=as_json)
    if as_json:
        return screen.data({"ragline": __version__, "python": platform.python_version()})
    return screen.line(f"ragline {__version__} (Python {platform.python_version()})")


for _command in (
    up,
    ingest,
    ask,
    search,
    evaluate,
    tune,
    reindex,
    backup,
    restore,
    status,
    load,
    prove,
    doctor,
    serve,
    work,
):
    app.command()(_command)
for _group in (documents, namespaces, jobs, webhooks, keys, cache):
    app.add_typer(_group)


def run() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to fail
    app()
