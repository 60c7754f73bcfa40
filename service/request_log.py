"""One line in the log for every request, at its end: what it asked, what it took, how it ended.

It says what the request's account says. An operator who sets `log_prompts` gets the prompt as well.
Answers are not kept, so they cannot be logged.
"""

import logging
from typing import Any

import msgspec

from engine.logs import fields
from protos.sluice.v1 import sluice_pb2
from service.account import Account

log = logging.getLogger(__name__)


class RequestLog:
    """Writes the lines; `prompts` says whether with prompts."""

    def __init__(self, *, prompts: bool) -> None:
        self._prompts = prompts

    def ended(self, request: sluice_pb2.GenerateRequest, account: Account) -> None:
        """Writes the line of a request, as it came and as it ended."""
        values: dict[str, Any] = msgspec.structs.asdict(account)
        if self._prompts:
            values["prompt"] = _prompt(request)
        level = logging.ERROR if account.code == "INTERNAL" else logging.INFO
        log.log(level, "request", extra=fields(**values))


def _prompt(request: sluice_pb2.GenerateRequest) -> Any:
    match request.WhichOneof("input"):
        case "text":
            return request.text
        case "chat":
            return [{"role": m.role, "content": m.content} for m in request.chat.messages]
        case "token_ids":
            return list(request.token_ids.ids)
    return None
