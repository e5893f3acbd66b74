"""Everything that can go wrong, on one page.

    RaglineError                    status  retryable
    ├── InvalidRequest                 422  no   the request itself is wrong; names the field
    │   ├── TooLarge                   413  no
    │   └── UnsupportedMedia           415  no
    ├── Unauthenticated                401  no
    ├── Forbidden                      403  no
    ├── NotFound                       404  no   namespace, document, key, blob, job
    ├── Conflict                       409  no   somebody else changed it first
    ├── Gone                           410  no   it was there, and is kept no longer
    ├── Overloaded                     429  yes  carries retry_after_s
    ├── DocumentRejected               422  no   the document cannot be processed; ends `failed(reason)`
    ├── EngineError                    503  yes  a store, a model, a broker; the adapter's table translates to these.
    │   │                                        By itself: it failed at this call, which may be the call's doing
    │   ├── EngineUnavailable          503  yes  refused, reset, gone: whatever is asked of it
    │   ├── EngineTimeout              504  yes  no answer within the deadline
    │   └── EngineRejected             502  no   it answered, and said no (wrong dimension, over a limit)
    │       └── EngineDenied           502  no   it lets nobody of ours in: credentials, rights, quota, a bill
    └── ConfigurationError             500  no   a setting is wrong or something is missing; the process does not start
        ├── MissingDependency          500  no   a package, a model, a program; names the command that provides it
        └── DataFolderInUse            500  no   another process holds the data folder

`message` names the thing and the reason; `next_step` says what to do about it. Both are shown to users, so neither may
hold a secret or a text of a document.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class RaglineError(Exception):
    """Root of the tree. `status` is the HTTP status; `retryable` says whether the same call may succeed later."""

    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}"


class InvalidRequest(RaglineError):
    status = 422

    def __init__(self, message: str, *, next_step: str, field: str | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.field = field


class TooLarge(InvalidRequest):
    status = 413


class UnsupportedMedia(InvalidRequest):
    status = 415


class Unauthenticated(RaglineError):
    status = 401


class Forbidden(RaglineError):
    status = 403


class NotFound(RaglineError):
    status = 404


class Conflict(RaglineError):
    status = 409


class Gone(RaglineError):
    status = 410


class Overloaded(RaglineError):
    status = 429
    retryable = True

    def __init__(self, message: str, *, next_step: str, retry_after_s: float) -> None:
        super().__init__(message, next_step=next_step)
        self.retry_after_s = retry_after_s


class Reason(StrEnum):
    """Why a document cannot be processed. The first word of `documents why`; also a metric label."""

    EMPTY = "empty"
    ENCRYPTED = "encrypted"
    DAMAGED = "damaged"
    UNSUPPORTED = "unsupported"
    NO_TEXT = "no text"
    TOO_LARGE = "too large"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    CRASHED = "crashed"
    GAVE_UP = "gave up"


class DocumentRejected(RaglineError):
    """The document, not the system, is at fault. Never retried by itself; replayable by `documents retry`."""

    status = 422

    def __init__(self, reason: Reason, message: str, *, next_step: str) -> None:
        super().__init__(message, next_step=next_step)
        self.reason = reason


class EngineError(RaglineError):
    """An engine failed. `engine` is its role and vendor, such as ``"vectors:qdrant"``."""

    status = 503
    retryable = True

    def __init__(self, message: str, *, next_step: str, engine: str) -> None:
        super().__init__(message, next_step=next_step)
        self.engine = engine


class EngineUnavailable(EngineError):
    pass


class EngineTimeout(EngineError):
    status = 504


class EngineRejected(EngineError):
    status = 502
    retryable = False


class EngineDenied(EngineRejected):
    """Whatever is asked of it, until somebody mends the account: no document is to blame, and none fails for it."""


class ConfigurationError(RaglineError):
    pass


class MissingDependency(ConfigurationError):
    pass


class DataFolderInUse(ConfigurationError):
    """Another process holds the data folder; `url` is where it answers, when it has said so."""

    def __init__(self, message: str, *, next_step: str, url: str | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.url = url
