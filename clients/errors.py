"""Everything that clients raise.

SluiceError
├── CallError                 the call ended with a gRPC status: .code, .details
│   ├── InvalidRequest        INVALID_ARGUMENT, OUT_OF_RANGE: .violations name the fields
│   ├── NotFound              NOT_FOUND: no such model
│   ├── AlreadyExists         ALREADY_EXISTS: the request id is in use
│   ├── AccessDenied          UNAUTHENTICATED, PERMISSION_DENIED
│   ├── Overloaded            RESOURCE_EXHAUSTED: .retry_after says when to come back, if known
│   ├── Unavailable           UNAVAILABLE: nobody there, engine down, or draining
│   ├── DeadlineExceeded      DEADLINE_EXCEEDED
│   ├── Aborted               ABORTED: somebody called Control.Abort
│   └── ServerFault           every other code: the server's fault, or not a Sluice server
├── BrokenStream              the stream ended well but lacks what the contract promises
├── NotServing                the server did not become healthy in time
├── LocalServerError          a server process we started ended, or never came up
├── DataError                 a file (data set, rows, run) cannot be used: says where and why
├── SweepError                a sweep cannot start or go on
├── HarnessError              lm-evaluation-harness asks for what cannot be had, or got no answer
└── LoadError                 a load test cannot start
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

STATUS_DETAILS_KEY = "grpc-status-details-bin"


class SluiceError(Exception):
    """Anything this package raises on purpose."""


@dataclass(frozen=True)
class Violation:
    """One field the server refused."""

    field: str
    description: str


class CallError(SluiceError):
    """The call ended with a gRPC status other than OK."""

    def __init__(
        self,
        code: grpc.StatusCode,
        details: str,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(_sentence(code, details, violations))
        self.code = code
        self.details = details
        self.violations = violations
        self.retry_after = retry_after  # seconds, from google.rpc.RetryInfo


class InvalidRequest(CallError):
    """The request cannot be served as it stands; `violations` name the fields."""


class NotFound(CallError):
    """The named model is not served here."""


class AlreadyExists(CallError):
    """A live request already has this id."""


class AccessDenied(CallError):
    """The credentials are missing or do not allow the call."""


class Overloaded(CallError):
    """The queue is full."""


class Unavailable(CallError):
    """Nobody listens, the engine is down, or the server is draining."""


class DeadlineExceeded(CallError):
    """The caller's deadline or the server's limit passed."""


class Aborted(CallError):
    """Control.Abort ended the request."""


class ServerFault(CallError):
    """The server failed, or it is not a Sluice server."""


class BrokenStream(SluiceError):
    """The stream ended with OK but without what the contract promises."""


class NotServing(SluiceError):
    """The server did not report SERVING in time."""


class LocalServerError(SluiceError):
    """A server process that we started ended early or never came up."""


class DataError(SluiceError):
    """A file cannot be used as it is."""


class SweepError(SluiceError):
    """A sweep cannot start, or there is no point in going on."""


class HarnessError(SluiceError):
    """A run of lm-evaluation-harness asks for what this service does not do, or lacks an answer."""


class LoadError(SluiceError):
    """A load test cannot start as it was asked for."""


BY_CODE: dict[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.ABORTED: Aborted,
}


def call_error(error: grpc.aio.AioRpcError) -> CallError:
    """The typed form of what grpc raised, with its google.rpc details if it carries any."""
    code = error.code()
    violations, retry_after = _read_details(error.trailing_metadata() or ())
    kind = BY_CODE.get(code, ServerFault)
    return kind(code, error.details() or "", violations, retry_after)


def _read_details(
    metadata: Iterable[tuple[str, Any]],
) -> tuple[tuple[Violation, ...], float | None]:
    violations: list[Violation] = []
    retry_after: float | None = None
    for detail in _details(metadata):
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations += [Violation(v.field, v.description) for v in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    return tuple(violations), retry_after


def _details(metadata: Iterable[tuple[str, Any]]) -> list[AnyMessage]:
    for key, value in metadata:
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):  # not ours, then; the status itself still counts
                return list(status_pb2.Status.FromString(value).details)
    return []


def _sentence(code: grpc.StatusCode, details: str, violations: tuple[Violation, ...]) -> str:
    text = details or "the server gave no reason"
    fields = [f"{v.field}: {v.description}" for v in violations if v.description not in text]
    return f"{code.name}: {'; '.join([text, *fields])}"
