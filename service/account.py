"""The account of one ended request: what it was granted, what it took, how it ended.

The line in the log (service/request_log.py) and the span of a trace (service/tracing.py) are both
made from it. Numbers, names and the fields that were refused; never the text of a prompt or an
answer, nor a value that a caller sent.
"""

import asyncio
import time
from typing import Any

import msgspec

from protos.sluice.v1 import sluice_pb2
from service.errors import InvalidRequest, ServiceError
from service.ranges import MAX_REQUEST_ID_CHARACTERS
from service.stream import RequestStream


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """None stands for what the request did not come to. Times are in seconds; over several outputs
    a time or a peak is the largest of them, another number their sum."""

    request_id: str | None
    model: str | None
    tenant: str | None
    code: str  # name of the gRPC status that the call ended with
    error: str | None = None  # the class of what ended it
    fields: list[str] | None = None  # that were refused, by path in the contract
    finish_reasons: list[str] | None = None  # of the outputs that the engine ended
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    kv_budget: int | None = None  # as granted; 0: none
    kv_floor: int | None = None
    policy: str | None = None
    kv_tokens_evicted: int | None = None
    preemptions: int | None = None
    kv_tokens_peak: int | None = None
    cached_prompt_tokens: int | None = None
    tokenise_seconds: float | None = None  # from its arrival until the engine was given it
    queue_seconds: float | None = None
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    seconds: float  # from its arrival to its end


def account_of(
    request: sluice_pb2.GenerateRequest,
    stream: RequestStream | None,
    arrival: float,
    error: BaseException | None,
    *,
    model: str | None,
    tenant: str | None,
) -> Account:
    """The account of a request that ends now.

    Args:
        request: as it came.
        stream: None if it was refused before it had one.
        arrival: on time.monotonic's clock.
        error: what ended it, None after a whole answer.
        model: what is served; None while it was never up.
        tenant: whose request it is; None where tokens are off.
    """
    now = time.monotonic()
    return Account(
        request_id=_request_id(request, stream),
        model=model,
        tenant=tenant,
        code=_code(error, stream is not None and now > stream.deadline),
        **_refused(error),
        **({} if stream is None else _course(stream)),
        seconds=round(now - arrival, 6),
    )


def _code(error: BaseException | None, overdue: bool) -> str:
    if error is None:
        return "OK"
    if isinstance(error, ServiceError):
        return error.code.name
    if isinstance(error, asyncio.CancelledError):  # by the caller, by its deadline, by a drain
        return "DEADLINE_EXCEEDED" if overdue else "CANCELLED"
    return "INTERNAL"


def _request_id(request: sluice_pb2.GenerateRequest, stream: RequestStream | None) -> str | None:
    if stream is not None:
        return stream.request_id
    return request.request_id[:MAX_REQUEST_ID_CHARACTERS] or None


def _refused(error: BaseException | None) -> dict[str, Any]:
    """Which error, and which fields: their names alone, since messages repeat what was sent."""
    if error is None:
        return {}
    refused: dict[str, Any] = {"error": type(error).__name__}
    if isinstance(error, InvalidRequest):
        refused["fields"] = [violation.field.partition("[")[0] for violation in error.violations]
    return refused


def _course(stream: RequestStream) -> dict[str, Any]:
    """What the engine granted and counted."""
    course: dict[str, Any] = {}
    if stream.submitted is not None:
        course["tokenise_seconds"] = round(stream.submitted - stream.arrival, 6)
    accepted, ends = stream.accepted, stream.ends
    if accepted is None:
        return course
    usages = [end.usage for end in ends]
    course |= {
        "finish_reasons": [end.reason.value for end in ends],
        "prompt_tokens": accepted.prompt_tokens,
        "completion_tokens": stream.received,
        "kv_budget": accepted.kv_budget,
        "kv_floor": accepted.min_tokens,
        "policy": accepted.policy or None,
    }
    for name in ("kv_tokens_evicted", "preemptions"):
        course[name] = sum(getattr(usage, name) for usage in usages)
    for name in ("kv_tokens_peak", "cached_prompt_tokens"):
        course[name] = max((getattr(usage, name) for usage in usages), default=0)
    for name in ("queue_seconds", "prefill_seconds", "decode_seconds"):
        longest = max((getattr(usage, name) for usage in usages), default=0.0)
        course[name] = round(longest, 6)
    return course
