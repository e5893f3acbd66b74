"""Sources by URL, through fsspec: object stores, web servers, and whatever else it reaches, with the words of folders.

Names are shown and kept without user, password and query: any of them may be a secret.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from time import time
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from ragline.cli.failures import NotReachable, WrongUsage
from ragline.cli.opening import COARSE_NS, IN_MEMORY, Remote
from ragline.cli.sources import Found
from ragline.errors import ConfigurationError, MissingDependency, RaglineError

CONNECT_S, READ_S = 10.0, 30.0
"""How long a server may take to be reached, and to send the next bytes; fsspec waits minutes, or for ever."""

EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3"}
"""Scheme → the extra of Ragline that brings its package."""

TAGS = ("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "checksum", "VersionId", "generation")
TIMES = ("LastModified", "Last-Modified", "last_modified", "mtime", "modified", "updated", "created")
"""What file systems call what tells one state of a file from another."""


def shown(url: str) -> str:
    """`url` as it may be shown and kept."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def find_remote(url: str, *, ending: str = "") -> list[Found]:
    """Every file below `url`, or the one it names, in order; hidden names are skipped, as in folders.

    Raises:  WrongUsage: nothing is there, no such scheme.  MissingDependency.  NotReachable: no answer.
             ConfigurationError: the credentials are not good for it.
    """
    scheme = url.partition("://")[0]
    with translated(url):
        try:
            fs, root = fsspec.core.url_to_fs(url, **_patience(scheme))
        except ImportError as error:
            raise _missing(scheme, error) from error
        except ValueError as error:
            raise WrongUsage(f"{shown(url)}: {error}.", next_step="Use a URL that fsspec knows.") from error
        if scheme in ("http", "https"):
            return [_page(fs, url)]
        infos: Mapping[str, Mapping[str, Any]] = fs.find(root, detail=True)
        files = [(path, info) for path, info in sorted(infos.items()) if info.get("type", "file") == "file"]
        if not files:
            raise FileNotFoundError(url)
    found = []
    for path, info in files:
        uri = path[len(root) :].strip("/") or path.rsplit("/", 1)[-1]
        hidden = any(part.startswith(".") for part in uri.split("/"))
        if not hidden and not path.endswith("/") and uri.endswith(ending):
            found.append(_found(fs, path, uri, info))
    return found


def _page(fs: Any, url: str) -> Found:
    """One document of a web server: what links to what is not followed. Raises WrongUsage: it lies on another host."""
    info = fs.info(url)
    there = str(info.get("url") or url)
    if urlsplit(there).netloc.rpartition("@")[2] != urlsplit(url).netloc.rpartition("@")[2]:
        raise WrongUsage(
            f"{shown(url)} points to another host, {shown(there)}.",
            next_step="If that is where it lies, give that URL itself.",
        )
    path = unquote(urlsplit(url).path).rstrip("/")
    return _found(fs, url, path.rsplit("/", 1)[-1] or urlsplit(url).hostname or url, info)


def _found(fs: Any, path: str, uri: str, info: Mapping[str, Any]) -> Found:
    size = int(IN_MEMORY + 1 if info.get("size") is None else info["size"])  # not told: it may be long
    version = _version(info)
    return Found(uri, size, version, remote=Remote(fs, path, size, version))


def _version(info: Mapping[str, Any]) -> str:
    """By what the file system tells; empty when that is its size alone, or a time that may hide the next change."""
    tags = [str(info[name]).strip('"') for name in TAGS if info.get(name)]
    times = [info[name] for name in TIMES if info.get(name)]
    if not tags and (not times or any(map(_fresh, times))):
        return ""
    return "-".join([str(info.get("size")), *tags, *map(str, times)])


def _fresh(when: object) -> bool:
    at = when.timestamp() if isinstance(when, datetime) else when
    return isinstance(at, int | float) and time() - at <= COARSE_NS / 1e9


def _patience(scheme: str) -> dict[str, Any]:
    """Deadlines where the settings of fsspec (`FSSPEC_S3`, …) give none."""
    given = fsspec.config.conf.get(scheme, {})
    if scheme in ("http", "https") and "client_kwargs" not in given:
        try:
            aiohttp = importlib.import_module("aiohttp")
        except ImportError as error:
            raise _missing(scheme, error) from error
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        return {"client_kwargs": {"timeout": limits}}
    if scheme in ("s3", "s3a") and "config_kwargs" not in given:
        retries = {"max_attempts": 2, "mode": "standard"}
        return {"config_kwargs": {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": retries}}
    return {}


def _missing(scheme: str, error: ImportError) -> MissingDependency:
    extra = EXTRAS.get(scheme)
    step = f"`pip install 'ragline[{extra}]'`." if extra else "Install the package that it names."
    return MissingDependency(f"{scheme}:// cannot be read: {error}.", next_step=step)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def translated(url: str) -> Iterator[None]:
    """The error table: what file systems and their clients raise, in words of ours. Their types are not imported."""
    try:
        yield
    except RaglineError:
        raise
    except Exception as error:
        raise _told(url, list(_chain(error))) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from: fsspec hides most of them in a FileNotFoundError."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _told(url: str, chain: list[BaseException]) -> RaglineError:
    name = shown(url) if "://" in url else url
    kinds = {kind.__name__ for error in chain for kind in type(error).__mro__}
    statuses = [getattr(error, "status", None) for error in chain]
    status = next((one for one in statuses if isinstance(one, int)), None)
    credentials = {"NoCredentialsError", "PartialCredentialsError", "PermissionError", "ProfileNotFound"}
    if status in (401, 403) or kinds & credentials:
        return ConfigurationError(
            f"{name} is not to be read with these credentials: {_words(chain[0], url)}.",
            next_step="Correct them where its client looks for them, such as AWS_ACCESS_KEY_ID or ~/.aws for s3://.",
        )
    if kinds & {"TimeoutError", "FSTimeoutError", "ReadTimeoutError", "ConnectTimeoutError"}:
        return NotReachable(
            f"{name} did not answer in time ({CONNECT_S:.0f} s to be reached, {READ_S:.0f} s for the next bytes).",
            next_step="Run it again; what has arrived is not sent again.",
        )
    if kinds & {"ClientConnectionError", "EndpointConnectionError", "ConnectionError", "ClientPayloadError"}:
        return NotReachable(
            f"{name} cannot be reached: {_words(chain[-1], url)}.",
            next_step="Check the address, the network, the proxy.",
        )
    if status is not None and status != 404:
        step = "Run it again later." if status >= 500 or status == 429 else "Correct the URL."
        return NotReachable(f"{name} answered {status}.", next_step=step)
    if "FileNotFoundError" in kinds or status == 404:
        return WrongUsage(f"There is nothing at {name}.", next_step="Correct the URL, or the bucket and its prefix.")
    return NotReachable(f"{name} cannot be read: {_words(chain[0], url)}.", next_step="Check the URL and try again.")


def _words(error: BaseException, url: str) -> str:
    """What the error says; only its name where it repeats what may be a secret."""
    text, parts = str(error).rstrip("."), urlsplit(url)
    secrets = (parts.netloc.rpartition("@")[0], parts.query)
    return type(error).__name__ if not text or any(one and one in text for one in secrets) else text
