"""`ragline work`: the workers as processes of their own, of one role each: a queue of jobs, or a stage over the chunk log."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ragline.cli.options import Config, DataDir, Debug, Json
from ragline.cli.screen import Screen
from ragline.cli.session import STOP_S, run_to_exit
from ragline.cli.up import Host, Port, address, fast_loop, given_settings

if TYPE_CHECKING:
    from ragline.errors import ConfigurationError
    from ragline.settings import Settings


class Role(StrEnum):
    PARSE = "parse"
    EMBED = "embed"
    INDEX = "index"
    RETRIEVE = "retrieve"
    GENERATE = "generate"
    WEBHOOKS = "webhooks"


def work(
    roles: Annotated[
        list[Role] | None, typer.Argument(help="One role, or several in one process; left out: all of them.")
    ] = None,
    *, data_dir: DataDir = None, host: Host = None, port: Port = None, config: Config = None, as_json: Json = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Run the workers, or some of their roles, until SIGTERM: then what is in work is finished or given back. The roles of ingest
    (parse, embed, index) are apart only over a chunk log; retrieve and generate work on the two queues of jobs,
    webhooks tells of their ends. The port
    answers /healthz, /readyz and /metrics."""
    given = given_settings(data_dir, host, port, config)
    run_to_exit(
        _work(roles or list(Role), given, Screen(as_json=as_json)),
        as_json=as_json,
        debug=debug,
        loop=fast_loop(),
        stop_s=STOP_S,
    )


async def _work(roles: Sequence[Role], given: dict[str, Any], screen: Screen) -> None:
    from ragline import logs
    from ragline.api.app import worker
    from ragline.build import build
    from ragline.cli.server import listen, serving
    from ragline.datafolder import held
    from ragline.settings import load_settings

    settings = load_settings(**given)
    logs.configure(settings.log_level)
    if wrong := _unfit(settings, roles):
        raise wrong
    token = secrets.token_urlsafe(32)
    try:
        with held(settings, token), listen(settings.http.host, settings.http.port) as listener:
            system = await build(settings)
            try:
                todo = partial(system.work, [role.value for role in roles])
                async with serving(worker(system, owner_token=token), listener, settings.http, work=todo):
                    _tell(screen, address(listener), roles)
                    await asyncio.Event().wait()
            finally:
                await system.aclose()
    except asyncio.CancelledError:
        screen.note("Stopped.")


def _tell(screen: Screen, url: str, roles: Sequence[Role]) -> None:
    if screen.as_json:
        return screen.data({"url": url, "roles": [role.value for role in roles], "pid": os.getpid()})
    return screen.line(
        f"Works on {', '.join(roles)}; health and metrics at {url}. Ctrl-C or SIGTERM: finishes what it holds, and stops."
    )


def _unfit(settings: Settings, roles: Sequence[Role]) -> ConfigurationError | None:
    from ragline.errors import ConfigurationError
    from ragline.webhooks.signing import SET_ONE, Signing

    if Role.WEBHOOKS in roles and set(roles) != set(Role) and not Signing(settings).possible:
        return ConfigurationError(
            "webhooks.secrets: it is not set, and nothing can be sent unsigned.", next_step=SET_ONE
        )
    of_ingest = {Role.PARSE, Role.EMBED, Role.INDEX}
    if of_ingest <= set(roles):  # the whole of ingest, with or without jobs: nothing needs to be shared
        return None
    if not settings.log and not of_ingest.isdisjoint(roles):
        return ConfigurationError(
            f"log: it is not set, and without a chunk log `ragline work {' '.join(roles)}` is no work of its own.",
            next_step='Run `ragline work parse embed index`, or without a role: it does all of them. Or set log = "kafka://HOST:9092".',
        )
    if settings.embedded:
        return ConfigurationError(
            f"`ragline work {' '.join(roles)}` shares {', '.join(settings.embedded)} with processes of other roles, and "
            "embedded engines belong to one process.",
            next_step="Name servers in these settings, or run all roles in one process: `ragline work`.",
        )
    return None
