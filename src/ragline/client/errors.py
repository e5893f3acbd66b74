"""Everything that can go wrong for who uses the client, on one page.

    ClientError
    ├── Refused            the server answered, and said no: status, code, field, request_id, retry_after_s
    │   ├── InvalidRequest     422, 413, 415   `field` is wrong
    │   ├── Unauthenticated    401             no key, or none that is good
    │   ├── Forbidden          403             another namespace's key, or too small a role
    │   ├── NotFound           404             namespace, document, job; or not yours to see
    │   ├── Conflict           409             somebody else changed it first
    │   ├── Gone               410             it was there, and is kept no longer
    │   ├── Overloaded         429             `retry_after_s`
    │   └── ServerFailed       5xx             an engine, or a defect
    ├── NotReachable       nothing answered, or the connection was cut
    ├── TimedOut           the whole call was not done within its time; a TimeoutError, too
    ├── NotUnderstood      what answered is no Ragline server, or a newer one
    ├── Closed             the client was closed before, or meanwhile
    ├── DocumentFailed     it was accepted and cannot be processed: `document`, `reason`
    └── JobFailed          it was accepted and has no answer: `job`, `reason`

`message` names the thing and the reason, `next_step` what to do about it. What the server says is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ragline.client.results import Document, Job


class ClientError(Exception):
    """Root of the tree."""

    def __init__(self, message: str, *, next_step: str) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}"


class Refused(ClientError):
    """`status`: of HTTP.   `code`: the server's name for the error, stable, such as ``NotFound``; empty: it has none.

    `retryable`: whether the same call may succeed later.   `field`: the part of the request that is wrong.
    `request_id`: by which logs of proxies know the request.
    Units:   `retry_after_s` in seconds; None: nobody said.
    """

    def __init__(
        self, message: str, *, next_step: str, status: int, code: str, retryable: bool, field: str | None,
        request_id: str, retry_after_s: float | None,
    ) -> None:  # fmt: skip
        super().__init__(message, next_step=next_step)
        self.status = status
        self.code = code
        self.retryable = retryable
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class InvalidRequest(Refused):
    pass


class Unauthenticated(Refused):
    pass


class Forbidden(Refused):
    pass


class NotFound(Refused):
    pass


class Conflict(Refused):
    pass


class Gone(Refused):
    pass


class Overloaded(Refused):
    pass


class ServerFailed(Refused):
    pass


BY_STATUS: dict[int, type[Refused]] = {
    401: Unauthenticated, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone, 413: InvalidRequest,
    415: InvalidRequest, 422: InvalidRequest, 429: Overloaded,
}  # fmt: skip


def refused(problem: Mapping[str, Any], status: int, *, request_id: str, retry_after_s: float | None) -> Refused:
    """Problem details (RFC 9457), as the server writes them."""
    kind = ServerFailed if status >= 500 else BY_STATUS.get(status, Refused)
    return kind(
        str(problem.get("detail", "")), next_step=str(problem.get("next_step", "")), status=status,
        code=str(problem.get("type", "")).partition("#")[2], retryable=bool(problem.get("retryable")),
        field=problem.get("field"), request_id=request_id, retry_after_s=retry_after_s,
    )  # fmt: skip


class NotReachable(ClientError):
    """`sent`: the request was on its way, and may have been done; False: it certainly was not."""

    def __init__(self, message: str, *, next_step: str, sent: bool) -> None:
        super().__init__(message, next_step=next_step)
        self.sent = sent


class TimedOut(ClientError, TimeoutError):
    pass


class NotUnderstood(ClientError):
    pass


class Closed(ClientError):
    def __init__(self) -> None:
        super().__init__("The client is closed.", next_step="Make a new one, or close it later.")


class DocumentFailed(ClientError):
    def __init__(self, document: Document) -> None:
        self.document = document
        self.reason = document.reason or document.state
        super().__init__(
            f"Document {document.uri!r} cannot be processed: {self.reason}.",
            next_step="Mend the cause and upload it again.",
        )


class JobFailed(ClientError):
    def __init__(self, job: Job) -> None:
        self.job = job
        self.reason = job.error.reason if job.error else job.state
        detail = job.error.detail if job.error else f"Job {job.id} is {job.state}."
        super().__init__(detail, next_step=job.error.next_step if job.error else "Begin it again.")
