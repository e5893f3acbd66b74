"""The error table: what Pinecone's client raises, in words of our tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
import pinecone.errors as vendor

from ragline.errors import EngineDenied, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from ragline.vectors.pinecone_rows import ENGINE

NEXT_STEP = "Try again; look at status.pinecone.io and the project's limits if it stays so."

STATUSES: Mapping[int, tuple[type[EngineError], str, str]] = {
    400: (EngineRejected, "refused the request", "This is a defect of Ragline: report it with the log."),
    401: (EngineDenied, "refuses the API key", "Correct the key: it must be one of the index's project."),
    402: (EngineDenied, "waits for a payment", "Settle the project's bills in Pinecone's console."),
    403: (EngineDenied, "forbids it", "Look at the key's permissions, the project's quota and deletion protection."),
    404: (EngineRejected, "has no such index or namespace", "Correct the index in the URL, or run `ragline reindex`."),
    408: (EngineTimeout, "did not answer in time", NEXT_STEP),
    409: (EngineUnavailable, "says that somebody else changes it", "Try again."),
    412: (EngineRejected, "says that a precondition fails", "Look at the project's settings in Pinecone's console."),
    413: (EngineRejected, "finds the request too large", "Set a smaller chunk_tokens for the namespace."),
    422: (EngineRejected, "cannot read the request", "This is a defect of Ragline: report it with the log."),
    429: (EngineUnavailable, "limits its rate", "Write more slowly, or ask for higher limits of the project."),
    500: (EngineUnavailable, "has an error of its own", NEXT_STEP),
    502: (EngineUnavailable, "is not reached behind its gateway", NEXT_STEP),
    503: (EngineUnavailable, "is unavailable", NEXT_STEP),
    504: (EngineTimeout, "did not answer in time", NEXT_STEP),
}
"""Statuses that Pinecone documents, and those of gateways before it."""

KINDS: Mapping[type[vendor.PineconeError], tuple[type[EngineError], str, str]] = {
    vendor.PineconeTimeoutError: STATUSES[504],
    vendor.PineconeConnectionError: (
        EngineUnavailable, "is not reached", "Check the network, a proxy on the way, and `control` in the URL."
    ),
    vendor.ResponseParsingError: (EngineRejected, "answered what is no answer", "Check `control` in the URL."),
    vendor.IndexInitFailedError: (EngineRejected, "could not make the index", "Look at it in Pinecone's console."),
    vendor.IndexTerminatedError: (EngineRejected, "is taking the index away", "Name another index in the URL."),
    vendor.PineconeValueError: STATUSES[400],
    vendor.PineconeTypeError: STATUSES[400],
}  # fmt: skip
"""What the client raises without a status."""


UNKNOWN = (EngineError, "failed in a way that Ragline does not know", "Report it with the log.")


@contextmanager
def translated(what: str = "") -> Iterator[None]:
    try:
        yield
    except (vendor.PineconeError, httpx.HTTPError, OSError) as error:
        raise failure(error, what) from error


def failure(error: BaseException, what: str = "") -> EngineError:
    """The error table. `what`: the index or collection that it was about."""
    words = " ".join(str(getattr(error, "message", "") or error).split())[:300]
    if isinstance(error, vendor.ApiError):
        status = error.status_code
        kind, said, next_step = STATUSES.get(status, STATUSES[500] if status >= 500 else UNKNOWN)
    elif isinstance(error, vendor.PineconeError):
        kind, said, next_step = next((KINDS[one] for one in type(error).__mro__ if one in KINDS), UNKNOWN)
    else:
        kind, said, next_step = KINDS[vendor.PineconeConnectionError]
    about = f" for {what}" if what else ""
    return kind(f"Pinecone {said}{about} ({words}).", next_step=next_step, engine=ENGINE)
