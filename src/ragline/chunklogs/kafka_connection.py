"""What the URL of a Kafka says, how it is reached, and what its errors mean to us.

kafka://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…][/PREFIX][?OPTION=VALUE&…]
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from aiokafka import errors as kafka_errors
from aiokafka.conn import create_conn

from ragline.connections.words import number, seconds, switch
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from ragline.types import Topic

ENGINE = "log:kafka"

_STAGES: Mapping[Topic, str] = {"doc_chunks": "embed", "doc_vectors": "index"}


@dataclass(frozen=True, slots=True)
class Options:
    """What a URL says. Units: `retention_h` hours, `max_message_bytes` bytes, `timeout_s` and `session_s` seconds.

    partitions, replication, retention_h: of topics that are made; those that there are stay as they are.
    timeout_s: of one call.   session_s: after which a reader that is not heard of has lost its partitions.
    """

    hosts: str
    prefix: str = ""
    partitions: int = 12
    replication: int = 1
    retention_h: int = 72
    max_message_bytes: int = 1_000_000
    timeout_s: float = 20.0
    session_s: float = 15.0
    compression: str = "none"
    tls: bool = False
    ca: str = ""
    sasl: str = ""
    user: str = ""
    password: str = field(default="", repr=False)

    def topic(self, topic: Topic, *, bulk: bool = False) -> str:
        return f"{self.prefix}{topic}{'_bulk' if bulk else ''}"

    def dead(self, topic: Topic) -> str:
        return f"{self.prefix}{topic}_dead"

    def group(self, topic: Topic) -> str:
        return f"{self.prefix or 'ragline-'}{_STAGES[topic]}"

    def client(self) -> dict[str, Any]:
        """The words that producers, consumers and admin clients share."""
        security = ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")
        words: dict[str, Any] = {
            "bootstrap_servers": self.hosts.split(","), "client_id": "ragline", "security_protocol": security,
            "request_timeout_ms": int(self.timeout_s * 1000),
        }  # fmt: skip
        if self.tls:
            words["ssl_context"] = _trusting(self.ca)
        if self.sasl:
            words |= {
                "sasl_mechanism": self.sasl, "sasl_plain_username": self.user, "sasl_plain_password": self.password,
            }  # fmt: skip
        return words


@cache
def _trusting(ca: str) -> ssl.SSLContext:
    """Raises OSError: the file of authorities is not there, or holds none."""
    return ssl.create_default_context(cafile=ca or None)


async def refusal(options: Options, error: Exception) -> Exception:
    """Why no broker lets us in, when `error` is all that the client says: it logs the reason and goes on to the next broker."""
    words = options.client()
    words.pop("bootstrap_servers")
    for host in options.hosts.split(","):
        name, _, port = host.rpartition(":")
        try:
            connection = await create_conn(name, int(port), **words)
        except (OSError, kafka_errors.KafkaError) as found:
            return found
        connection.close()
    return error


def options_of(url: str) -> Options:
    """Raises ConfigurationError: what of the URL is wrong; never with its password."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    given: dict[str, Any] = {"hosts": hosts, "user": unquote(user), "password": unquote(password)}
    if not hosts or any(not port.isdecimal() for port in (host.rpartition(":")[2] for host in hosts.split(","))):
        raise _wrong(f"{hosts!r} is no list of HOST:PORT", "write kafka://HOST:9092, several with commas")
    if prefix := parts.path.strip("/"):
        if len(prefix) > 100 or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in prefix):
            raise _wrong(
                "the prefix of the topics is not made of letters, digits, '-', '_' and '.'", "correct the path"
            )
        given["prefix"] = f"{prefix}-"
    known = Options.__dataclass_fields__
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known or name in given:
            names = ", ".join(sorted(known.keys() - {"hosts", "prefix", "user", "password"}))
            raise _wrong(f"there is no option {name!r}", f"there are {names}")
        try:
            given[name] = _READ[str(known[name].type)](value)
        except ValueError:
            raise _wrong(f"{name}={value!r} is not a value for it", "see docs/engines/kafka.md") from None
    options = Options(**given)
    if options.user and not options.sasl:
        options = Options(**given, sasl="PLAIN")
    if options.sasl not in ("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise _wrong(f"sasl={options.sasl!r} is not known", "use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
    if options.ca and not options.tls:
        raise _wrong("there is a ca but no TLS", "add tls=true, or leave the ca out")
    if options.tls:
        try:
            _trusting(options.ca)
        except OSError as error:
            raise _wrong(
                f"ca={options.ca!r} cannot be read ({error.strerror or type(error).__name__})",
                "name a file with the certificates of the authority, or leave it out for the system's",
            ) from error
    if options.compression not in ("none", "gzip", "snappy", "lz4", "zstd"):
        raise _wrong(f"compression={options.compression!r} is not known", "use none, gzip, snappy, lz4 or zstd")
    return options


_READ: Mapping[str, Any] = {"int": number(), "float": seconds(), "bool": switch, "str": str}


def _wrong(what: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"log: {what}.", next_step=f"Correct the setting: {instead}.")


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_CREDENTIALS = "Correct user and password in the URL of `log`, and `sasl` and `tls` behind it."
_TRUST = "Name the file of the brokers' authority by `ca` behind the URL of `log`, and the brokers as their certificate does."
_TLS = "The port speaks no TLS: take its TLS listener, or `tls` out of the URL of `log`."
_ENDED = (
    "Check that the brokers run, and that `tls` and `sasl` behind the URL of `log` are what this port of theirs wants."
)
_RIGHTS = "Let this user read, write and describe the topics and groups that docs/engines/kafka.md names."
_MADE = "Correct partitions, replication or retention_h behind the URL of `log` to what the cluster allows."
_OLD = "Use Kafka 2.5 or newer."
_SMALLER = (
    "Raise max_message_bytes behind the URL of `log`, and max.message.bytes of the topics; or make the chunks smaller."
)
_AWAY = "Check that the brokers of `log` run and can be reached; the work goes on by itself when they do."

_TABLE: tuple[tuple[tuple[type[Exception], ...], type[EngineError], str], ...] = (
    (
        (
            kafka_errors.AuthenticationFailedError, kafka_errors.AuthenticationMethodNotSupported,
            kafka_errors.SaslAuthenticationFailed, kafka_errors.UnsupportedSaslMechanismError,
            kafka_errors.IllegalSaslStateError, kafka_errors.SecurityDisabled,
        ),
        EngineDenied, _CREDENTIALS,
    ),
    ((ssl.SSLCertVerificationError,), EngineDenied, _TRUST),
    ((ssl.SSLError,), EngineDenied, _TLS),
    ((kafka_errors.KafkaConnectionError, ConnectionResetError), EngineUnavailable, _ENDED),
    (
        (
            kafka_errors.TopicAuthorizationFailedError, kafka_errors.GroupAuthorizationFailedError,
            kafka_errors.ClusterAuthorizationFailedError, kafka_errors.TransactionalIdAuthorizationFailed,
        ),
        EngineDenied, _RIGHTS,
    ),
    (
        (
            kafka_errors.InvalidPartitionsError, kafka_errors.InvalidReplicationFactorError,
            kafka_errors.InvalidReplicationAssignmentError, kafka_errors.InvalidConfigurationError,
            kafka_errors.PolicyViolationError, kafka_errors.InvalidTopicError,
        ),
        EngineRejected, _MADE,
    ),
    (
        (
            kafka_errors.UnsupportedVersionError, kafka_errors.IncompatibleBrokerVersion,
            kafka_errors.UnrecognizedBrokerVersion, kafka_errors.UnsupportedForMessageFormatError,
        ),
        EngineRejected, _OLD,
    ),
    (
        (
            kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError,
            kafka_errors.RecordTooLargeError,
        ),
        EngineRejected, _SMALLER,
    ),
    ((kafka_errors.KafkaTimeoutError, kafka_errors.RequestTimedOutError, TimeoutError), EngineTimeout, _AWAY),
    (
        (
            kafka_errors.OutOfOrderSequenceNumber, kafka_errors.UnknownProducerId, kafka_errors.ProducerFenced,
            kafka_errors.InvalidProducerEpoch, kafka_errors.InvalidProducerIdMapping, kafka_errors.ProducerClosed,
            kafka_errors.KafkaUnavailableError, kafka_errors.BrokerNotAvailableError, kafka_errors.ConsumerStoppedError,
            kafka_errors.ReplicaNotAvailableError, OSError,
        ),
        EngineUnavailable, _AWAY,
    ),
)  # fmt: skip


def translated(error: Exception, what: str) -> EngineError:
    """The error of our tree that `error` is; `what`: the call, in a few words."""
    words = type(error).__name__
    for kinds, ours, step in _TABLE:
        if isinstance(error, kinds):
            return ours(f"Kafka: {what} failed ({words}).", next_step=step, engine=ENGINE)
    if getattr(error, "retriable", False):
        return EngineUnavailable(f"Kafka: {what} failed ({words}).", next_step=_AWAY, engine=ENGINE)
    step = "Look at the brokers' log; the call is tried again."
    return EngineError(f"Kafka: {what} failed ({words}).", next_step=step, engine=ENGINE)


@asynccontextmanager
async def translating(what: str) -> AsyncIterator[None]:
    try:
        yield
    except (
        kafka_errors.KafkaError,
        kafka_errors.ConsumerStoppedError,
        kafka_errors.IllegalOperation,
        OSError,
    ) as error:
        raise translated(error, what) from error
