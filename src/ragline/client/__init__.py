"""A client of the HTTP API: `AsyncClient` for asyncio, `Client` for everything else; the same methods, the same results.

It imports nothing of the server, and needs httpx alone. docs/client.md shows it at work.
"""

from ragline.client.asynchronous import AsyncClient
from ragline.client.blocking import Client
from ragline.client.errors import (
    ClientError,
    Closed,
    Conflict,
    DocumentFailed,
    Forbidden,
    Gone,
    InvalidRequest,
    JobFailed,
    NotFound,
    NotReachable,
    NotUnderstood,
    Overloaded,
    Refused,
    ServerFailed,
    TimedOut,
    Unauthenticated,
)
from ragline.client.results import (
    AcceptedJob,
    Answer,
    AnswerEvent,
    Deleted,
    Document,
    Found,
    Job,
    JobError,
    JobEvent,
    Namespace,
    NamespaceSettings,
    Passage,
    Restarted,
    Token,
    Uploaded,
    Usage,
)

__all__ = [
    "AcceptedJob", "Answer", "AnswerEvent", "AsyncClient", "Client", "ClientError", "Closed", "Conflict", "Deleted",
    "Document", "DocumentFailed", "Forbidden", "Found", "Gone", "InvalidRequest", "Job", "JobError", "JobEvent", "JobFailed",
    "Namespace", "NamespaceSettings", "NotFound", "NotReachable", "NotUnderstood", "Overloaded", "Passage", "Refused",
    "Restarted", "ServerFailed", "TimedOut", "Token", "Unauthenticated", "Uploaded", "Usage",
]  # fmt: skip
