"""What the URL of a pair of SQS queues says, and what AWS's errors mean to us.

sqs://REGION/PREFIX[?OPTION=VALUE&…]: the queues PREFIX-retrieval and PREFIX-generation, or those that the options name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ragline.connections.words import number, seconds
from ragline.errors import (
    ConfigurationError,
    EngineDenied,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
)
from ragline.types import QUEUES, QueueName

ENGINE = "queue:sqs"

LONGEST_POLL_S = 20
MOST_AT_ONCE = 10
"""Limits of SQS: seconds of a long poll, and messages in one call."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class Options:
    """names: of each queue, its name or its URL.   endpoint: of a server that is not Amazon's own, else empty.

    Units: `visibility_s` whole seconds until a wake that was not settled comes again; `timeout_s` seconds to connect, and
    to answer beyond a long poll.
    """

    region: str
    names: Mapping[QueueName, str]
    endpoint: str = ""
    visibility_s: int = 60
    timeout_s: float = 5.0


def options_of(url: str) -> Options:
    """Raises ConfigurationError: what of the URL is wrong. It never holds credentials: those are refused."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise _wrong(
            "credentials do not belong into the URL",
            "leave them to AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or the role of the machine",
        )
    if not re.fullmatch(r"[a-z0-9-]+", parts.netloc):
        raise _wrong("the region is missing", "write sqs://eu-central-1/PREFIX")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if len(given) != len(parse_qsl(parts.query, keep_blank_values=True)):
        raise _wrong("an option stands there twice", "leave one")
    if unknown := sorted(given.keys() - _OPTIONS):
        raise _wrong(f"there is no option {unknown[0]!r}", f"there are {', '.join(_OPTIONS)}")
    prefix = parts.path.strip("/")
    names: dict[QueueName, str] = {}
    for queue in QUEUES:
        name = given.get(queue) or (f"{prefix}-{queue}" if prefix else "")
        if not name:
            raise _wrong(f"no queue for {queue} is named", f"write sqs://REGION/PREFIX, or name it by ?{queue}=")
        if name.endswith(".fifo"):
            raise _wrong(f"{name} is a FIFO queue", "name standard queues: order means nothing to a job")
        if not _NAME.fullmatch(name) and not name.startswith(("https://", "http://")):
            raise _wrong(f"{name[:100]!r} is neither the name nor the URL of a queue", f"correct {queue}")
        names[queue] = name
    if names["retrieval"] == names["generation"]:
        raise _wrong("both queues are one", "name two: a slow model must not hold retrieval up")
    try:
        words: dict[str, Any] = {name: _READ[name](given[name]) for name in _READ if name in given}
    except ValueError:
        raise _wrong("a number of its options is out of its range", "see docs/engines/sqs.md") from None
    if (endpoint := given.get("endpoint", "")) and not re.fullmatch(r"https?://[^@\s]+", endpoint):
        raise _wrong("endpoint is no http(s):// URL without credentials", "correct it")
    return Options(region=parts.netloc, names=names, endpoint=endpoint, **words)


_READ: Mapping[str, Any] = {"visibility_s": number(most=43_200), "timeout_s": seconds(most=600)}
_OPTIONS = (*QUEUES, "endpoint", *_READ)


def _wrong(what: str, instead: str) -> ConfigurationError:
    return ConfigurationError(f"jobs.queue: {what}.", next_step=f"Correct the setting: {instead}.")


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────

RIGHTS = (
    "sqs:GetQueueUrl, sqs:GetQueueAttributes, sqs:SendMessage, sqs:ReceiveMessage and sqs:DeleteMessage on both queues"
)

_Row = tuple[frozenset[str], type[EngineError], str, str]


def _row(names: str, kind: type[EngineError], reason: str, next_step: str) -> _Row:
    return frozenset(names.split()), kind, reason, next_step


TABLE: tuple[_Row, ...] = (
    _row(
        "QueueDoesNotExist AWS.SimpleQueueService.NonExistentQueue NonExistentQueue",
        EngineRejected, "There is no such queue in {region} for this account",
        "Make it: `aws sqs create-queue --region {region} --queue-name {name}`; or correct `jobs.queue`.",
    ),
    _row(
        "QueueDeletedRecently AWS.SimpleQueueService.QueueDeletedRecently",
        EngineUnavailable, "It was deleted just now", "A queue of that name can be made again after 60 s.",
    ),
    _row(
        "AccessDenied AccessDeniedException AccessDeniedException InvalidClientTokenId UnrecognizedClientException "
        "InvalidAccessKeyId SignatureDoesNotMatch InvalidSignatureException ExpiredToken ExpiredTokenException "
        "InvalidSecurity MissingAuthenticationToken MissingAuthenticationTokenException IncompleteSignature OptInRequired "
        "NotAuthorized 401 403 NoCredentialsError PartialCredentialsError CredentialRetrievalError NoAuthTokenError "
        "UnknownCredentialError TokenRetrievalError UnknownTokenProviderError ProfileNotFound InvalidConfigError "
        "ConfigParseError ConfigNotFound SSOError LoginError RefreshWithMFAUnsupportedError MetadataRetrievalError",
        EngineDenied, "The credentials are not good for it",
        f"Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the role), or give them the rights: {RIGHTS}.",
    ),
    _row(
        "KmsAccessDenied KmsDisabled KmsInvalidKeyUsage KmsInvalidState KmsNotFound KmsOptInRequired",
        EngineDenied, "Its key (KMS) cannot be used", "Let these credentials use the queue's key: kms:Decrypt and "
        "kms:GenerateDataKey.",
    ),
    _row(
        "RequestThrottled ThrottlingException Throttling KmsThrottled TooManyRequests 429 OverLimit",
        EngineUnavailable, "It limits how fast it is asked", "It is tried again. Ask AWS for a higher quota if it stays so.",
    ),
    _row(
        "RequestTimeTooSkewed RequestExpired",
        EngineDenied, "This machine's clock is wrong", "Set it by NTP: signed requests hold for 15 minutes.",
    ),
    _row(
        "SSLError",
        EngineUnavailable, "Its certificate is not trusted", "Set AWS_CA_BUNDLE to its certificate authority's file.",
    ),
    _row(
        "TimeoutError ReadTimeoutError ConnectTimeoutError",
        EngineTimeout, "It did not answer in time", "It is tried again. Check the network if it stays so.",
    ),
    _row(
        "InternalError InternalFailure InternalServerError ServiceUnavailable 500 502 503 504 HTTPClientError ConnectionError "
        "ResponseStreamingError IncompleteReadError CapacityNotAvailableError OSError",
        EngineUnavailable, "It is not reached, or failed",
        "Check that it can be reached from here, and `endpoint` in the URL of `jobs.queue` where there is one.",
    ),
    _row(
        "InvalidRegionError NoRegionError UnknownRegionError UnknownEndpointError UnknownFIPSEndpointError "
        "EndpointVariantError EndpointProviderError InvalidEndpointConfigurationError BaseEndpointResolverError "
        "InvalidProxiesConfigError InvalidAddress UnsupportedOperation InvalidMessageContents ValueError BotoCoreError",
        EngineRejected, "The call cannot be made", "Correct region, queues and endpoint in the URL of `jobs.queue`.",
    ),
)  # fmt: skip
"""Codes of SQS's answers, names of exceptions and of their bases → what it is; the first row that fits."""


def failure(error: BaseException, what: str, name: str, region: str) -> EngineError:
    """The error of our tree that `error` is; `what`: the call. Its own words are not shown: they may hold a key's id."""
    said = list(_names(error))
    word = said[0]
    for known, kind, reason, next_step in TABLE:
        if known.intersection(said):
            return kind(
                f"Amazon SQS, queue {name}: {what} failed. {reason.format(region=region)} ({word}).",
                next_step=next_step.format(region=region, name=name), engine=ENGINE,
            )  # fmt: skip
    return EngineError(
        f"Amazon SQS, queue {name}: {what} failed ({word}).", next_step="It is tried again; look at the queue's metrics.",
        engine=ENGINE,
    )  # fmt: skip


def _names(error: BaseException) -> Iterator[str]:
    """The code of the answer and its HTTP status, where there is one; then the classes."""
    answer = getattr(error, "response", None)
    if isinstance(answer, Mapping):
        if code := answer.get("Error", {}).get("Code"):
            yield str(code).rpartition("#")[2]
        if status := answer.get("ResponseMetadata", {}).get("HTTPStatusCode"):
            yield str(status)
    for kind in type(error).__mro__:
        yield kind.__name__
