"""What the URL of a pair of Cloud Tasks queues says, and what Google's errors mean to us.

cloudtasks://PROJECT/LOCATION/PREFIX?target=https://WORKERS&account=EMAIL[&OPTION=VALUE…]: the queues PREFIX-retrieval and
PREFIX-generation, or those that the options name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from google.api_core import exceptions as api
from google.auth import exceptions as auth

from ragline.connections.words import seconds
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from ragline.types import QUEUES, QueueName

ENGINE = "queue:cloudtasks"

PATH = "/v1/internal/queues/{queue}/wakes"
"""Of the route that Cloud Tasks calls, below `target`."""


@dataclass(frozen=True, slots=True)
class Options:
    """names: of each queue, whole, as Google writes them.   targets: of each queue, the URL of its workers.

    account:  e-mail of the service account in whose name the tasks call us.   audience: that their tokens are for.
    issuer, keys: who signs these tokens, and where the certificates are.
    endpoint: ``host:port`` of an emulator, which is spoken to without TLS and credentials; empty: Google.
    Units:    `hold_s` seconds that a call waits for a worker, `dedupe_s` in which a job is told once, `timeout_s` of a call.
    """

    names: Mapping[QueueName, str]
    targets: Mapping[QueueName, str]
    account: str
    audience: str = ""
    issuer: str = "https://accounts.google.com"
    keys: str = "https://www.googleapis.com/oauth2/v1/certs"
    endpoint: str = ""
    hold_s: float = 30.0
    dedupe_s: float = 10.0
    timeout_s: float = 5.0

    def audience_of(self, queue: QueueName) -> str:
        return self.audience or self.targets[queue]

    def url_of(self, queue: QueueName) -> str:
        return self.targets[queue] + PATH.format(queue=queue)


def options_of(url: str) -> Options:
    """Raises ConfigurationError: what of the URL is wrong."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(pairs)
    if len(given) != len(pairs):
        raise _wrong("an option stands there twice", "leave one")
    if unknown := sorted(given.keys() - _OPTIONS):
        raise _wrong(f"there is no option {unknown[0]!r}", f"there are {', '.join(_OPTIONS)}")
    location, _, prefix = parts.path.strip("/").partition("/")
    if "@" in parts.netloc or not _ID.fullmatch(parts.netloc) or not _ID.fullmatch(location):
        raise _wrong("project or location are missing", "write cloudtasks://PROJECT/LOCATION/PREFIX?…")
    names: dict[QueueName, str] = {}
    targets: dict[QueueName, str] = {}
    for queue in QUEUES:
        name = given.get(queue) or (f"{prefix}-{queue}" if prefix else "")
        if not re.fullmatch(r"[A-Za-z0-9-]{1,100}", name):
            raise _wrong(f"{name!r} is no name of a queue", f"name it by the path, or by ?{queue}=")
        names[queue] = f"projects/{parts.netloc}/locations/{location}/queues/{name}"
        target = (given.get(f"{queue}_target") or given.get("target", "")).rstrip("/")
        if not re.fullmatch(r"https://[^@\s?#]+" if not given.get("endpoint") else r"https?://[^@\s?#]+", target):
            raise _wrong("target is no https:// URL", "name the workers, as Google reaches them: ?target=https://…")
        targets[queue] = target
    if names["retrieval"] == names["generation"]:
        raise _wrong("both queues are one", "name two: a slow model must not hold retrieval up")
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", given.get("account", "")):
        raise _wrong("account is missing", "name the e-mail of the service account that calls the workers: ?account=…")
    try:
        words: dict[str, Any] = {name: _READ[name](given[name]) for name in _READ if name in given}
    except ValueError:
        raise _wrong("a number of its options is out of its range", "see docs/engines/cloud-tasks.md") from None
    return Options(names=names, targets=targets, account=given["account"], **words)


_ID = re.compile(r"[A-Za-z0-9:.-]+")


def _text(value: str) -> str:
    if not value:
        raise ValueError
    return value


_CALL_S = seconds(least=0.1, most=1_700)
"""A call to us may take half an hour."""

_READ: Mapping[str, Any] = {
    "audience": _text, "issuer": _text, "keys": _text, "endpoint": _text, "hold_s": _CALL_S, "dedupe_s": seconds(least=0),
    "timeout_s": _CALL_S,
}  # fmt: skip
_OPTIONS = ("target", "account", *QUEUES, *(f"{queue}_target" for queue in QUEUES), *_READ)


def _wrong(what: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"jobs.queue: {what}.", next_step=f"Correct the setting: {instead}.")


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_MAKE = (
    "Make it: `gcloud tasks queues create {queue} --location={location} --project={project}`; or correct `jobs.queue`."
)
_RIGHTS = (
    "Give this service account roles/cloudtasks.enqueuer and roles/cloudtasks.viewer, and roles/iam.serviceAccountUser on "
    "the account that `jobs.queue` names."
)
_LOGIN = "Give this process credentials: GOOGLE_APPLICATION_CREDENTIALS, or the service account of the machine."
_AWAY = "It is tried again. Check the network, and `endpoint` in the URL of `jobs.queue` where there is one."
_SLOWER = "It is tried again. Ask Google for a higher quota if it stays so."
_DEFECT = "Correct the URL of `jobs.queue`; if it is right, this is a defect of Ragline: report it."

_Row = tuple[tuple[type[BaseException], ...], type[EngineError], str, str]

TABLE: tuple[_Row, ...] = (
    ((api.NotFound, api.FailedPrecondition), EngineRejected, "There is no such queue, or it is disabled", _MAKE),
    ((api.Unauthorized, auth.DefaultCredentialsError), EngineDenied, "There are no good credentials", _LOGIN),
    ((api.Forbidden,), EngineDenied, "These credentials may not do that", _RIGHTS),
    ((api.TooManyRequests,), EngineUnavailable, "It limits how fast it is asked", _SLOWER),
    ((api.GatewayTimeout, api.Cancelled, auth.TimeoutError, TimeoutError), EngineTimeout, "It did not answer in time", _AWAY),
    ((api.Conflict, api.ServerError), EngineUnavailable, "It is not reached, or failed", _AWAY),
    ((auth.TransportError,), EngineUnavailable, "Google's identity service is not reached", _AWAY),
    ((auth.RefreshError, auth.GoogleAuthError), EngineDenied, "There are no good credentials", _LOGIN),
    ((OSError,), EngineUnavailable, "It is not reached", _AWAY),
    ((api.GoogleAPIError, ValueError), EngineRejected, "The call cannot be made", _DEFECT),
)  # fmt: skip
"""What Google's libraries raise → what it is; the first row that fits."""


def failure(error: BaseException, what: str, name: str) -> EngineError:
    """The error of our tree that `error` is; `name`: of the queue, whole."""
    _, project, _, location, _, queue = name.split("/")
    unknown: _Row = ((), EngineError, "It failed", "It is tried again; look at the queue's page at Google.")
    _, ours, reason, step = next((row for row in TABLE if isinstance(error, row[0])), unknown)
    return ours(
        f"Cloud Tasks, queue {queue}: {what} failed. {reason} ({type(error).__name__}).",
        next_step=step.format(queue=queue, location=location, project=project), engine=ENGINE,
    )  # fmt: skip
