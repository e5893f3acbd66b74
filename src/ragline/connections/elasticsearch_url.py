"""What the URL of an Elasticsearch says.

elasticsearch[s]://[USER:PASSWORD@|:API_KEY@]HOST[:PORT][,HOST[:PORT]…][/PREFIX][?OPTION=VALUE&…]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ragline.connections.words import number, seconds, switch
from ragline.errors import ConfigurationError

SCHEMES = ("elasticsearch", "elasticsearchs")
INDEXES = ("int8_hnsw", "bbq_hnsw", "hnsw")
LANGUAGES = (
    "any", "arabic", "armenian", "basque", "bengali", "brazilian", "bulgarian", "catalan", "cjk", "czech", "danish", "dutch",
    "english", "estonian", "finnish", "french", "galician", "german", "greek", "hindi", "hungarian", "indonesian", "irish",
    "italian", "latvian", "lithuanian", "norwegian", "persian", "portuguese", "romanian", "russian", "serbian", "sorani",
    "spanish", "swedish", "thai", "turkish",
)  # fmt: skip
"""The analyzers that Elasticsearch has built in, and `any`: ours, for every script, stemmed as English."""

PORT = 9200


@dataclass(frozen=True, slots=True)
class Server:
    """How a cluster is reached: equal ones share a client. Units: `timeout_s` seconds, of one request.

    hosts: ``host:port`` each.   ca: a file of certificate authorities, else the system's.   verify: the certificate.
    retries: of a write that the cluster is too busy for.
    """

    hosts: tuple[str, ...]
    tls: bool = False
    ca: str = ""
    verify: bool = True
    user: str = ""
    password: str = field(default="", repr=False)
    timeout_s: float = 30.0
    retries: int = 4


@dataclass(frozen=True, slots=True)
class Options:
    """All that a URL says. Units: `bulk_bytes` bytes of a request with writes, about.

    shards, replicas: of indices that are made; those that there are stay as they are.
    index:      how vectors are held.   candidates: looked at by a search of vectors, in each shard, and scored exactly.
    language:   of the texts: which analyzer makes words of them.
    """

    server: Server
    prefix: str = "ragline"
    shards: int = 1
    replicas: int = 1
    index: str = "int8_hnsw"
    candidates: int = 150
    language: str = "any"
    bulk_bytes: int = 1_000_000


def options_of(url: str, setting: str) -> Options:
    """Raises ConfigurationError: what of the URL in `setting` is wrong; never with its password."""
    parts = urlsplit(url)

    def wrong(what: str, instead: str) -> ConfigurationError:
        return ConfigurationError(f"{setting}: {what}.", next_step=f"Correct the setting: {instead}.")

    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    if not all(_is_host(host) for host in hosts.split(",")):
        raise wrong(f"{hosts!r} is no list of HOST:PORT", "write elasticsearch://HOST:9200, several with commas")
    if user and not password:
        raise wrong(f"the user {user!r} has no password", "write USER:PASSWORD@HOST, or :API_KEY@HOST")
    reach: dict[str, Any] = {
        "hosts": tuple(host if ":" in host else f"{host}:{PORT}" for host in hosts.split(",")),
        "tls": parts.scheme == "elasticsearchs", "user": unquote(user), "password": unquote(password),
    }  # fmt: skip
    given: dict[str, Any] = {}
    if prefix := parts.path.strip("/"):
        if len(prefix) > 60 or prefix[0] in "-_." or not all(c in _PREFIX for c in prefix):
            raise wrong(
                "the prefix of the indices is not made of small letters, digits, '-', '_' and '.'", "correct the path"
            )
        given["prefix"] = prefix
    own, whole = Server.__dataclass_fields__, Options.__dataclass_fields__
    names = sorted((own.keys() | whole.keys()) - {"hosts", "tls", "user", "password", "server", "prefix"})
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        target, known = (reach, own) if name in own else (given, whole)
        if name not in names or name in target:
            raise wrong(f"there is no option {name!r}, or it stands there twice", f"there are {', '.join(names)}")
        try:
            target[name] = _READ.get(name, _BY_TYPE[str(known[name].type)])(value)
        except ValueError:
            allowed = f"one of {', '.join(_ONE_OF[name])}" if name in _ONE_OF else "see docs/engines/elasticsearch.md"
            raise wrong(f"{name}={value!r} is not a value for it", allowed) from None
    if not reach["tls"] and (idle := sorted({"ca", "verify"} & reach.keys())):
        raise wrong(f"{', '.join(idle)}: only for elasticsearchs://", "write elasticsearchs:// for TLS")
    if (ca := reach.get("ca")) and not Path(ca).is_file():
        raise wrong(f"the file of certificate authorities {ca} is not there", "correct `ca`")
    return replace(Options(Server(**reach)), **given)


def _is_host(host: str) -> bool:
    name, colon, port = host.partition(":")
    return bool(name) and (not colon or (port.isdecimal() and 0 < int(port) < 65536))


_PREFIX = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_ONE_OF: Mapping[str, tuple[str, ...]] = {"index": INDEXES, "language": LANGUAGES}


def _word(name: str, value: str) -> str:
    if value not in _ONE_OF[name]:
        raise ValueError
    return value


_BY_TYPE: Mapping[str, Any] = {"int": number(), "float": seconds(), "bool": switch, "str": str}
_READ: Mapping[str, Any] = {
    "replicas": number(least=0), "retries": number(least=0), "candidates": number(most=10_000),
    "index": lambda value: _word("index", value), "language": lambda value: _word("language", value),
}  # fmt: skip
