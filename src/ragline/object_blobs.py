"""Blobs in a bucket of S3 and what speaks its protocol, or anywhere else that fsspec reaches (docs/engines/s3.md).

Written for object stores: a blob is there whole or not at all, and durable, once its request is answered. Nothing about what
lies there is remembered between two calls: other processes write to the same bucket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

import fsspec
from fsspec.dircache import DirCache

from ragline.errors import (
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    MissingDependency,
    NotFound,
    RaglineError,
)
from ragline.types import BlobEntry

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Scheme → the extra of Ragline that brings its package."""

BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Schemes without folders: making one would make a bucket of a name that was mistyped."""

CONNECT_S, READ_S = 5.0, 30.0
ATTEMPTS, ROUNDS = 2, 2
"""How long S3 may take to be reached and to send the next bytes, how often a request is sent, and how often s3fs begins anew."""

SLOWEST_BYTES_S = 256 << 10
"""Below it an upload counts as standing still. It needs a deadline of its own: while the server is asked whether it will take the
body (`Expect: 100-continue`), the client's do not run."""

MODIFIED = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
"""What fsspec's file systems (S3, Azure, Google, SFTP, memory) call the time of the last write."""

RIGHTS = "s3:ListBucket on the bucket; s3:GetObject, s3:PutObject and s3:DeleteObject on its objects"


class FsspecBlobs:
    """Raises ImportError, ValueError: no package, no file system for the scheme of `url`."""

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        self._fs, self._root = fsspec.core.url_to_fs(url, skip_instance_cache=True, **_patience(scheme))
        self._fs.dircache = DirCache(use_listings_cache=False)
        if scheme in EXTRAS:
            self._fs.retries = ROUNDS
        self._where = f"{scheme}://{self._root}"
        self._engine = f"blobs:{scheme}"
        self._has_folders = scheme not in BUCKETS

    async def put(self, path: str, data: bytes, *, durable: bool = True) -> None:
        if self._has_folders:
            await self._call("makedirs", self._at(path).rsplit("/", 1)[0], exist_ok=True)
        try:
            async with asyncio.timeout(CONNECT_S + READ_S + len(data) / SLOWEST_BYTES_S):
                await self._call("pipe_file", self._at(path), data)
        except (FileNotFoundError, TimeoutError) as error:
            raise failure(error, self._where, self._engine) from error

    async def get(self, path: str) -> bytes:
        try:
            return cast(bytes, await self._call("cat_file", self._at(path)))
        except FileNotFoundError as error:
            raise missing(path) from error

    async def paths(self, prefix: str) -> list[str]:
        return [entry.path for entry in await self.entries(prefix)]

    async def entries(self, prefix: str) -> list[BlobEntry]:
        try:
            found = cast("dict[str, dict[str, object]]", await self._call("find", self._at(prefix), detail=True))
        except FileNotFoundError:
            return []
        return [
            BlobEntry(path[len(self._root) :].lstrip("/"), int(cast(int, info.get("size") or 0)), _modified(info))
            for path, info in sorted(found.items())
        ]

    async def folders(self) -> list[str]:
        try:
            found = cast("list[dict[str, object]]", await self._call("ls", self._root, detail=True))
        except FileNotFoundError:
            return []
        return sorted(str(one["name"]).rstrip("/").rsplit("/", 1)[-1] for one in found if one["type"] == "directory")

    async def delete(self, prefix: str) -> None:
        try:
            await self._call("rm", self._at(prefix), recursive=True)
        except FileNotFoundError:
            return

    def _at(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    async def _call(self, verb: str, *args: object, **kwargs: object) -> object:
        """Raises FileNotFoundError: there is nothing of that name, in a bucket that is there.  EngineError."""
        try:
            if getattr(self._fs, "async_impl", False):
                # On fsspec's own loop, not on a thread of ours: a slow store would hold those that searches need.
                work = getattr(self._fs, f"_{verb}")(*args, **kwargs)
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._fs.loop))
            return await asyncio.to_thread(getattr(self._fs, verb), *args, **kwargs)
        except FileNotFoundError as error:
            if "NoSuchBucket" in _codes(error):
                raise failure(error, self._where, self._engine) from error
            raise
        except Exception as error:
            raise failure(error, self._where, self._engine) from error


# ── the error table ──────────────────────────────────────────────────────────────────────────────────────────────────

Row = tuple[frozenset[str], type[EngineError], str, str]


def _row(names: str, kind: type[EngineError], message: str, next_step: str) -> Row:
    return frozenset(names.split()), kind, message, next_step


TABLE = (
    _row(
        "NoSuchBucket InvalidBucketName InvalidBucketState",
        EngineRejected, "There is no such bucket", "Make it, or correct `blobs`: Ragline makes no bucket.",
    ),
    _row(
        "RequestTimeTooSkewed",
        EngineDenied, "This machine's clock is wrong", "Set it by NTP: signed requests hold for 15 minutes.",
    ),
    _row(
        "PermanentRedirect TemporaryRedirect Redirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301 "
        "NoRegionError InvalidRegionError",
        EngineRejected, "The bucket lies in another region", "Set AWS_DEFAULT_REGION to the region of the bucket.",
    ),
    _row(
        "InvalidObjectState",
        EngineRejected, "The object is archived", "Restore it, and keep lifecycle rules that archive from this bucket.",
    ),
    _row(
        "SSLError CERTIFICATE_VERIFY_FAILED ClientConnectorCertificateError",
        EngineUnavailable, "Its certificate is not trusted", "Set AWS_CA_BUNDLE to its certificate authority's file.",
    ),
    _row(
        "AccessDenied AllAccessDisabled AccountProblem InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken InvalidToken "
        "InvalidSecurity NotSignedUp 401 403 "
        "NoCredentialsError PartialCredentialsError CredentialRetrievalError InvalidConfigError ProfileNotFound "
        "UnauthorizedSSOTokenError SSOTokenLoadError TokenRetrievalError NoAuthTokenError PermissionError",
        EngineDenied, "The credentials are not good for it",
        f"Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the role), or give them the rights: {RIGHTS}.",
    ),
    _row(
        "SlowDown ServiceUnavailable RequestLimitExceeded TooManyRequests 429 503 MaxRetriesExceeded",
        EngineUnavailable, "It limits how fast it is asked", "It is tried again. Lower ingest.concurrency if it stays so.",
    ),
    _row(
        "QuotaExceeded XMinioStorageFull XMinioAdminBucketQuotaExceeded InsufficientStorage 507",
        EngineUnavailable, "It is full", "Make room, or raise the bucket's quota.",
    ),
    _row(
        "InternalError 500 502 504",
        EngineUnavailable, "It failed", "It is tried again. Look at its own log if it stays so.",
    ),
    _row(
        "RequestTimeout TimeoutError FSTimeoutError ReadTimeoutError ConnectTimeoutError ServerTimeoutError",
        EngineTimeout, "It did not answer in time", "It is tried again. Check its load and the network if it stays so.",
    ),
    _row(
        "EndpointConnectionError HTTPClientError ClientConnectionError ClientPayloadError ConnectionError "
        "ConnectionClosedError ProxyConnectionError IncompleteRead IncompleteReadError ResponseStreamingError",
        EngineUnavailable, "It is not reached", "Check that it runs, AWS_ENDPOINT_URL, the network and the proxy.",
    ),
    _row(
        "EntityTooLarge KeyTooLongError 400 InvalidRequest InvalidArgument ParamValidationError UnknownEndpointError "
        "InvalidEndpointConfigurationError InvalidDNSNameError",
        EngineRejected, "It refuses the request", "Check `blobs` and AWS_ENDPOINT_URL; if they are right, report this.",
    ),
)  # fmt: skip
"""Codes of S3's answers, names of exceptions and of their bases → what it is; the first row that fits. Types are not imported."""


def failure(error: BaseException, where: str, engine: str) -> EngineError:
    """`where`: the bucket and its prefix, which stand in the message."""
    names = {*_codes(error), *_kinds(error)}
    for known, kind, message, next_step in TABLE:
        if known & names:
            return kind(f"The blob store {where}: {message} ({_said(error)}).", next_step=next_step, engine=engine)
    kinds = EngineUnavailable if isinstance(error, OSError) else EngineError
    return kinds(
        f"The blob store {where} did not take the call ({_said(error)}).",
        next_step="Check that it is reachable and that the credentials may read and write.",
        engine=engine,
    )


def _said(error: BaseException) -> str:
    """The code where S3 gave one: its own words may hold a key's id."""
    return next(iter(_codes(error)), type(error).__name__)


def _codes(error: BaseException) -> list[str]:
    """The nearest first."""
    answers = [getattr(one, "response", None) for one in _chain(error)]
    said = [answer["Error"].get("Code") for answer in answers if isinstance(answer, Mapping) and "Error" in answer]
    return [str(code) for code in said if code]


def _kinds(error: BaseException) -> Iterator[str]:
    for one in _chain(error):
        for kind in type(one).__mro__:
            yield kind.__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from: s3fs makes an OSError of what it knows."""
    while error is not None:
        yield error
        error = error.__cause__


def missing(path: str) -> NotFound:
    return NotFound(f"Blob {path} is gone.", next_step="Upload the document again.")


def not_installed(scheme: str, error: ImportError) -> RaglineError:
    extra = EXTRAS.get(scheme)
    step = f"Run `pip install 'ragline[{extra}]'`" if extra else "Install the package that it names"
    return MissingDependency(f"blobs: {scheme}:// cannot be used: {error}.", next_step=f"{step}, then start again.")


def _patience(scheme: str) -> dict[str, Any]:
    """Deadlines where fsspec's own settings (`FSSPEC_S3`) give none: its defaults wait for minutes."""
    if scheme not in EXTRAS or "config_kwargs" in fsspec.config.conf.get(scheme, {}):
        return {}
    retries = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
    return {"config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": retries}}


def _modified(info: Mapping[str, object]) -> float | None:
    """When a file was written: every file system calls it something else, and some say nothing."""
    for name in MODIFIED:
        match info.get(name):
            case datetime() as at:
                return at.timestamp()
            case int() | float() as seconds:
                return float(seconds)
    return None
