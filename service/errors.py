"""What can end a call early, and the one table that says with which gRPC status.

ServiceError
├── InvalidRequest     INVALID_ARGUMENT    BadRequest
├── UnknownModel       NOT_FOUND
├── DuplicateRequest   ALREADY_EXISTS
├── PolicyUnavailable  FAILED_PRECONDITION
├── QueueFull          RESOURCE_EXHAUSTED  RetryInfo
├── QuotaExceeded      RESOURCE_EXHAUSTED  QuotaFailure, RetryInfo where waiting helps
├── ModelLoading       UNAVAILABLE         RetryInfo
├── EngineDown         UNAVAILABLE         RetryInfo
├── Draining           UNAVAILABLE
├── DeadlinePassed     DEADLINE_EXCEEDED
├── Aborted            ABORTED
├── ReaderStalled      ABORTED
├── BrokenOutput       INTERNAL
└── Quarantined        INTERNAL

service/auth.py answers UNAUTHENTICATED before there is a call that could raise anything.

Texts go to clients: they name values the client sent, never anything of this process.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

MAX_VIOLATIONS = 8  # details travel in a trailer, which has room for a few KiB
MAX_SHOWN = 80  # characters of a client's text that a message repeats

INTERNAL_TEXT = "internal error {}; the server's log has its cause"
GARBAGE_TEXT = "the message is not valid protobuf for this method; regenerate the client's stubs"
METADATA_TEXT = "the metadata of this call is larger than the {} bytes allowed; send less"
UNAUTHENTICATED_TEXT = "a valid bearer token is needed in the metadata 'authorization'"


class Violation(NamedTuple):
    """One field that is out of range."""

    field: str  # path in the contract, for example "sampling.temperature"
    message: str


class ServiceError(Exception):
    """Ends the call with the status of its class."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    retry_seconds: float | None = None  # when a retry may succeed; None: it will not help
    quota: str | None = None  # which one was exceeded

    @property
    def violations(self) -> Sequence[Violation]:
        return ()


class InvalidRequest(ServiceError):
    """Fields of the request cannot be honoured; retrying will not help."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, violations: Sequence[Violation]) -> None:
        self._violations = violations[:MAX_VIOLATIONS]
        super().__init__("; ".join(f"{field}: {text}" for field, text in self._violations))

    @property
    def violations(self) -> Sequence[Violation]:
        return self._violations


class UnknownModel(ServiceError):
    """The request names a model that is not served here."""

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, asked: str, served: str) -> None:
        super().__init__(f"no model {shown(asked)}; this server has {served!r}")


class DuplicateRequest(ServiceError):
    """The request_id names a live request."""

    code = grpc.StatusCode.ALREADY_EXISTS

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {shown(request_id)} is in use by a live request; choose another, leave it "
            "out, or Abort the live one"
        )


class PolicyUnavailable(ServiceError):
    """The policy needs what this server lacks; the message says how to get it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class QueueFull(ServiceError):
    """The engine's queue is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class QuotaExceeded(ServiceError):
    """The caller's tenant has, or would have, as much as it may."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, quota: str, message: str, retry_seconds: float | None) -> None:
        super().__init__(f"{quota}: {message}")
        self.quota = quota
        self.retry_seconds = retry_seconds


class ModelLoading(ServiceError):
    """The server has just been started and its model is not there yet."""

    code = grpc.StatusCode.UNAVAILABLE
    retry_seconds = 1.0

    def __init__(self) -> None:
        super().__init__("the model is loading; retry")


class EngineDown(ServiceError):
    """There is no engine at the moment, or it failed while it had the request."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(
        self, message: str = "the engine is starting; retry", retry_seconds: float = 1.0
    ) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class Draining(ServiceError):
    """The server is about to end."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("this server is shutting down; retry on another")


class DeadlinePassed(ServiceError):
    """The caller's deadline or the server's limit has passed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED

    def __init__(self, max_request_seconds: float) -> None:
        super().__init__(
            "the request's deadline has passed, or this server's limit of "
            f"{max_request_seconds:g} s per request"
        )


class Aborted(ServiceError):
    """Somebody called Control.Abort."""

    code = grpc.StatusCode.ABORTED

    def __init__(self) -> None:
        super().__init__("aborted through Control.Abort")


class ReaderStalled(ServiceError):
    """The client takes no messages."""

    code = grpc.StatusCode.ABORTED

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the client took no message for {seconds:g} s")


class BrokenOutput(ServiceError):
    """The model's logits for this request were not finite."""

    def __init__(self) -> None:
        super().__init__("the model's logits for this request were not finite")


class Quarantined(ServiceError):
    """The request fails the engine whenever it runs."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            "this request has failed the engine each time it ran, at last as the only suspect; it "
            f"is refused for {seconds / 60:g} minutes. Report it: the server's log has the cause"
        )


def shown(text: str) -> str:
    """A client's text as a message may repeat it: quoted, escaped, cut."""
    return ascii(text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "...")


def to_status(error: ServiceError) -> status_pb2.Status:
    """The google.rpc.Status of an error, details included."""
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.message)
        status.details.add().Pack(bad)
    if error.quota is not None:
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(subject=error.quota, description=str(error))
        status.details.add().Pack(failure)
    if error.retry_seconds is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_seconds * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


async def abort(context: Any, error: ServiceError) -> NoReturn:
    """Ends the call of a grpc.aio ServicerContext with the error's status."""
    await context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort_with_status always raises")
