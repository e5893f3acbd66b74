"""What the URL of a Pinecone project says.

pinecone://[:API_KEY@]INDEX[,INDEX…][/PREFIX][?OPTION=VALUE&…]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ragline.connections.words import number, seconds
from ragline.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Options:
    """Units: `timeout_s`, `patience_s`, `fresh_s` seconds; `parallel` requests.

    indexes:    names; an index has one dimension, so that a change of the embedder needs a second one.
    prefix:     of the namespaces that are ours.   key: empty: the client's own variable, PINECONE_API_KEY.
    cloud, region: where an index that is not there is made; empty: none is made.
    control:    address of the control plane, else Pinecone's.   timeout_s: of one request.
    patience_s: that a write may wait in all while the service says 429 or is away.
    fresh_s:    that a write may wait until searches see it.   parallel: requests of one call at a time.
    """

    indexes: tuple[str, ...]
    prefix: str = "ragline"
    key: str = field(default="", repr=False)
    cloud: str = ""
    region: str = ""
    control: str = ""
    timeout_s: float = 30.0
    patience_s: float = 30.0
    fresh_s: float = 60.0
    parallel: int = 4


def options_of(url: str) -> Options:
    """Raises ConfigurationError: what of the URL is wrong; never with its key."""
    parts = urlsplit(url)
    login, _, names = parts.netloc.rpartition("@")
    user, _, key = login.partition(":")
    given: dict[str, Any] = {"indexes": tuple(names.split(","))}
    if user:
        raise _wrong("there is no user at Pinecone", "write the key as pinecone://:API_KEY@INDEX")
    if not all(_NAME.fullmatch(name) for name in given["indexes"]):
        raise _wrong(
            f"{names!r} is no list of index names", "write pinecone://INDEX: small letters, digits and '-', at most 45"
        )
    if prefix := parts.path.strip("/"):
        if not _NAME.fullmatch(prefix):
            raise _wrong("the prefix is not made of small letters, digits and '-'", "correct the path")
        given["prefix"] = prefix
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _READ or name in given:
            raise _wrong(f"there is no option {name!r}, or it stands there twice", f"there are {', '.join(_READ)}")
        try:
            given[name] = _READ[name](value)
        except ValueError:
            raise _wrong(f"{name}={value!r} is not a value for it", "see docs/engines/pinecone.md") from None
    if bool(given.get("cloud")) != bool(given.get("region")):
        raise _wrong("cloud and region go together", "write ?cloud=aws&region=us-east-1, or leave both out")
    file = given.pop("key_file", "")
    if file and key:
        raise _wrong("the key stands there twice", "leave out `key_file`, or the key before the '@'")
    return Options(key=_key_in(file) if file else unquote(key), **given)


def _key_in(file: str) -> str:
    try:
        return Path(file).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(f"the file of the API key {file} cannot be read", "correct `key_file`") from error


def _wrong(what: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"vectors: {what}.", next_step=f"Correct the setting: {instead}.")


def _address(value: str) -> str:
    if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname:
        raise ValueError
    return value


_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,43}[a-z0-9])?")
_READ: Mapping[str, Callable[[str], Any]] = {
    "key_file": str, "cloud": str, "region": str, "control": _address, "timeout_s": seconds(), "patience_s": seconds(),
    "fresh_s": seconds(), "parallel": number(most=64),
}  # fmt: skip
