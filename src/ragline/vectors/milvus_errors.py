"""The error table: what pymilvus, gRPC and an old server have to say, in words of our tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from pymilvus import MilvusException

from ragline.errors import EngineDenied, EngineError, EngineRejected, EngineTimeout, EngineUnavailable

ENGINE = "vectors:milvus"

OLDEST = (2, 3)
"""Before it there is no upsert and there are no arrays."""

GONE = frozenset({4, 100})
NOT_NOW = {
    1: "The server is not ready", 2: "The server is not ready", 8: "The server limits its rate", 9: "The server refuses writes",
    22: "The server is out of disk", 27: "The server is out of memory", 101: "The collection is not loaded",
    103: "The collection is not loaded", 503: "No node of the server has the collection", 901: "A node of the server is gone",
}  # fmt: skip
"""Codes of the server that may come right by themselves."""
DENIED = frozenset({1400, 1401, 1402, 65535})

NEXT_STEP = "Try again; look at the server's log and its quotas if it stays so."


def check_version(version: str) -> None:
    """Raises EngineRejected: too old."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < OLDEST:
        raise EngineRejected(
            f"The Milvus server is {version}; the oldest that is supported is {'.'.join(map(str, OLDEST))}.",
            next_step="Use a newer server.",
            engine=ENGINE,
        )


@contextmanager
def translated(collection: str) -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except (MilvusException, grpc.RpcError, TimeoutError, OSError, ValueError) as error:
        raise failure(error, collection) from error


def code_of(error: BaseException) -> int:
    code = getattr(error, "code", 0)
    return int(code) if isinstance(code, int) else 0


def failure(error: BaseException, collection: str = "") -> EngineError:
    """The error table: what pymilvus and gRPC raise, in words of our tree."""
    words = " ".join(str(getattr(error, "message", "") or error).split())[:300]
    cause = error.__cause__ or error.__context__  # where a connection was not made, it alone says why
    code, low = code_of(error), f"{words} {cause.details() if isinstance(cause, grpc.aio.AioRpcError) else ''}".lower()
    if code in GONE or "collection not found" in low or "can't find collection" in low:
        return EngineRejected(
            f"There is no vector collection {collection}.",
            next_step="Run `ragline reindex NAMESPACE`: it is made anew from the blobs.",
            engine=ENGINE,
        )
    if "auth check failure" in low or "unauthenticated" in low or "permission" in low:
        return EngineDenied(
            f"Milvus refuses the user ({words}).", next_step="Correct user and password in the URL.", engine=ENGINE
        )
    if isinstance(error, TimeoutError) or "retry timeout" in low or "deadline exceeded" in low:
        if any(word in low for word in ("unavailable", "fail connecting", "failed to connect")):
            return _away(words)
        return EngineTimeout(f"Milvus did not answer in time ({words}).", next_step=NEXT_STEP, engine=ENGINE)
    if "larger than max" in low or ("exceeds" in low and "message" in low):
        return EngineRejected(
            f"It is over a limit of Milvus ({words}).",
            next_step="Send less at a time, or shorter texts.",
            engine=ENGINE,
        )
    if code in NOT_NOW and code not in (1, 2):
        return EngineUnavailable(f"{NOT_NOW[code]} ({words}).", next_step=NEXT_STEP, engine=ENGINE)
    if code in (1, 2) or isinstance(error, grpc.RpcError | OSError) or "connect" in low or "unavailable" in low:
        return _away(words)
    return EngineRejected(
        f"Milvus refused the call ({code or type(error).__name__}: {words}).",
        next_step="This is a defect of Ragline: report it with the log.",
        engine=ENGINE,
    )


def _away(words: str) -> EngineUnavailable:
    return EngineUnavailable(
        f"Milvus is not reached ({words}).",
        next_step="Check host, port and TLS in the URL, and that the server runs.",
        engine=ENGINE,
    )
