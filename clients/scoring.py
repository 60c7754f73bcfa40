"""Whether a response is right: the last box after thinking, compared as text and as a number.

Deliberately small: `score_math` is the only door, so that a stronger comparison can take its place.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

Status = Literal["ok", "no_answer", "truncated", "timeout", "error"]

END_OF_THINKING = "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_NOISE = re.compile(r"\\left|\\right|\\[,;:!> ]|[\s$~]")
_FRACTION = re.compile(r"\\[dt]frac")
_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d*)?")


@dataclass(frozen=True)
class Score:
    """The verdict on one response. Only status "ok" can be correct.

    no_answer: it ended by itself without an answer. truncated: it was cut off before giving one.
    timeout and error: there is no verdict (scoring took too long; the request failed).
    """

    correct: bool
    extracted: str | None
    status: Status


def score_math(
    response: str, gold: str, truncated: bool = False, thinking_ended: bool | None = None
) -> Score:
    """Judges `response` by its last box after thinking.

    Args:
        response: what the model wrote.
        gold: the reference answer, with or without a box.
        truncated: it was cut off by a length limit.
        thinking_ended: False where it is known that the model was still thinking (a chat template
            may open `<think>` in the prompt, unseen in the response); None judges by the text.
    """
    answer = _after_thinking(response, thinking_ended)
    extracted = None if answer is None else last_box(answer)
    if not extracted or not extracted.strip():
        return Score(False, None, "truncated" if truncated else "no_answer")
    reference = last_box(gold)
    return Score(same_answer(extracted, gold if reference is None else reference), extracted, "ok")


def last_box(text: str) -> str | None:
    r"""Content of the last `\boxed{}` with matched braces; None if there is none or it is open."""
    openings = list(_BOX.finditer(text))
    if not openings:
        return None
    start = openings[-1].end()
    depth, index = 1, start
    while index < len(text):
        match text[index]:
            case "\\":
                index += 1  # whatever follows is escaped: \{ is no brace
            case "{":
                depth += 1
            case "}":
                depth -= 1
                if depth == 0:
                    return text[start:index]
        index += 1
    return None


def same_answer(answer: str, gold: str) -> bool:
    r"""Equal after normalisation, or equal as exact numbers: 027 = 27 = 27.0, 1{,}000 = 1000."""
    left, right = _normalise(answer), _normalise(gold)
    if left == right:
        return bool(left)
    number = _number(left)
    return number is not None and number == _number(right)


def _after_thinking(response: str, thinking_ended: bool | None) -> str | None:
    _, marker, rest = response.rpartition(END_OF_THINKING)
    if marker:
        return rest
    unfinished = "<think>" in response if thinking_ended is None else not thinking_ended
    return None if unfinished else response


def _normalise(text: str) -> str:
    text = _WRAPPER.sub(r"\1", text.replace("{,}", ","))
    text = _FRACTION.sub(r"\\frac", _NOISE.sub("", text))
    return text.rstrip(".") if text.rstrip(".") else text


def _number(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
