"""The ranges that the contract's comments give to single fields, and how to say so.

protobuf has widened a caller's 0.01 to float and back by the time it is checked, so bounds are
rounded to float as well.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def float32(value: float) -> float:
    """The float nearest to `value`."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@dataclass(frozen=True)
class Rule:
    """What one field allows; `allowed` completes the sentence "send ..."."""

    field: str
    holds: Callable[[Any], bool]
    allowed: str

    def complaint(self, value: float) -> str | None:
        """What is wrong with `value`, or None. NaN and infinities are always wrong."""
        if math.isfinite(value) and self.holds(value):
            return None
        return f"got {value:.7g}; send {self.allowed}"


def between(field: str, low: float, high: float, otherwise: str) -> Rule:
    """Both ends included; `otherwise` says what leaving the field out means."""
    return Rule(
        field,
        lambda value: float32(low) <= value <= float32(high),
        f"{low:g} to {high:g}, or leave it out for {otherwise}",
    )


SAMPLING = (
    Rule(
        "temperature",
        lambda value: value == 0 or float32(0.01) <= value <= 100,
        "0 (greedy) or 0.01 to 100, or leave it out for 1",
    ),
    Rule(
        "top_p",
        lambda value: 0 < value <= 1,
        "a value above 0 and at most 1, or leave it out for 1",
    ),
    between("min_p", 0, 1, "0"),
    between("repetition_penalty", 0.1, 10, "1"),
    between("n", 1, 64, "1"),
    between("logprobs", 0, 20, "none"),
)
REQUEST = (
    between("priority", -100, 100, "0"),
    between("stream_interval", 1, 1024, "1"),
)
STOPPING = (
    Rule("max_tokens", lambda value: value >= 1, "at least 1, or leave it out for what fits"),
)
KV_BUDGET = (
    Rule(
        "reclaim_tokens",
        lambda value: value >= 1,
        "at least 1, or leave it out for a sixteenth of the budget",
    ),
)

MAX_REQUEST_ID_CHARACTERS = 128
MAX_CACHE_SALT_CHARACTERS = 256
MAX_MESSAGES = 4096  # turns of a conversation
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 64
ROLES = ("system", "user", "assistant")
