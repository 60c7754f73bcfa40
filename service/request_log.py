"""One line in the log for every request, at its end: what it asked, what it took, how it ended.

Numbers, names and the fields that were refused; never the text of a prompt or an answer. An
operator who sets `log_prompts` gets the prompt as well. Answers are not kept, so they cannot be
logged.
"""

import asyncio
import logging
import time
from typing import Any

from engine.logs import fields
from protos.sluice.v1 import sluice_pb2
from service.errors import InvalidRequest, ServiceError
from service.ranges import MAX_REQUEST_ID_CHARACTERS
from service.stream import RequestStream

log = logging.getLogger(__name__)


class RequestLog:
    """Writes the lines; `prompts` says whether with prompts."""

    def __init__(self, *, prompts: bool) -> None:
        self._prompts = prompts

    def ended(
        self,
        request: sluice_pb2.GenerateRequest,
        stream: RequestStream | None,
        arrival: float,
        error: BaseException | None,
        **names: str | None,
    ) -> None:
        """Writes the line of a request.

        Args:
            request: as it came.
            stream: None if it was refused before it had one.
            arrival: on time.monotonic's clock.
            error: what ended it, None after a whole answer.
            names: what else names it, such as its model.
        """
        now = time.monotonic()
        deadline = None if stream is None else stream.deadline
        code = _code(error, deadline is not None and now > deadline)
        values: dict[str, Any] = {
            "request_id": _request_id(request, stream),
            **names,
            "code": code,
            **_refused(error),
            **({} if stream is None else _account(stream)),
            "seconds": round(now - arrival, 6),
        }
        if self._prompts:
            values["prompt"] = _prompt(request)
        level = logging.ERROR if code == "INTERNAL" else logging.INFO
        log.log(level, "request", extra=fields(**values))


def _code(error: BaseException | None, overdue: bool) -> str:
    """The name of the gRPC status that the call ended with."""
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


def _account(stream: RequestStream) -> dict[str, Any]:
    """What the engine granted and counted; over several outputs sums, and the longest time."""
    accepted, ends = stream.accepted, stream.ends
    if accepted is None:
        return {}
    usages = [end.usage for end in ends]
    account: dict[str, Any] = {
        "finish_reasons": [end.reason.value for end in ends],
        "prompt_tokens": accepted.prompt_tokens,
        "completion_tokens": stream.received,
        "kv_budget": accepted.kv_budget,
        "kv_floor": accepted.min_tokens,
        "policy": accepted.policy or None,
    }
    for name in ("kv_tokens_evicted", "preemptions"):
        account[name] = sum(getattr(usage, name) for usage in usages)
    for name in ("kv_tokens_peak", "cached_prompt_tokens"):
        account[name] = max((getattr(usage, name) for usage in usages), default=0)
    for name in ("queue_seconds", "prefill_seconds", "decode_seconds"):
        longest = max((getattr(usage, name) for usage in usages), default=0.0)
        account[name] = round(longest, 6)
    return account


def _prompt(request: sluice_pb2.GenerateRequest) -> Any:
    match request.WhichOneof("input"):
        case "text":
            return request.text
        case "chat":
            return [{"role": m.role, "content": m.content} for m in request.chat.messages]
        case "token_ids":
            return list(request.token_ids.ids)
    return None
