"""What scoring says of one response."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "no_answer", "truncated", "timeout", "error"]


@dataclass(frozen=True)
class Score:
    """The verdict on one response. Only status "ok" can be correct.

    no_answer: it ended by itself without a usable answer. truncated: it was cut off before giving
    one. timeout and error: there is no verdict, because comparing took too long or broke down.
    """

    correct: bool
    extracted: str | None
    status: Status
