r"""Multiple choice: which letter a response ends on.

The last of these after thinking counts: a box with a letter (`\boxed{A}`, `\boxed{\text{(A)}}`,
`\boxed{A) text}`), a box with the text of one option, a line such as `Answer: A` or `the correct
answer is (A)`.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from clients.errors import DataError
from clients.scoring.answer import after_thinking, last_box_at
from clients.scoring.text import same_text
from clients.scoring.verdict import Score

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_LEAD = re.compile(r"\s*(?:(?:the\s+)?(?:final\s+)?(?:correct\s+)?(?:answer|option|choice)\s*"
                   r"(?:is|:)?\s*)", re.IGNORECASE)  # fmt: skip
_LETTER = re.compile(r"\s*[\[({*$\s]*([A-Z])(?:(?=[\])}.:,;*$\s])[\])}.:,;*$]*(.*)|)", re.DOTALL)
_SAID = re.compile(
    r"\b(?:final\s+|correct\s+|best\s+)*(?:answer|option|choice)\b\W{0,4}(?:\s*is\b|\s*:)\W{0,6}"
    r"(?:(?:option|choice)\s+)?\W{0,4}(?:\\(?:text|textbf|mathrm)\s*\{\W{0,2})?"
    r"([A-Z])(?![A-Za-z'])",
    re.IGNORECASE,
)

_END = re.compile(r"[^\w\n]*(?:\n|\Z)")


def score_choice(
    response: str,
    gold_letter: str,
    options: Sequence[str],
    truncated: bool = False,
    thinking_ended: bool | None = None,
) -> Score:
    """Judges `response` by the last letter it put forward after thinking.

    `extracted` is the letter. A box that names no single option is unusable: status no_answer, and
    `extracted` is what it holds.

    Args:
        response: what the model wrote.
        gold_letter: "A", "B", ...; the right one of `options`.
        options: the texts, in the order that was shown.
        truncated: it was cut off by a length limit.
        thinking_ended: as for `score_math`.

    Raises:
        DataError: `gold_letter` names none of the options.
    """
    letters = ascii_uppercase[: len(options)]
    gold = gold_letter.strip().upper()
    if len(gold) != 1 or gold not in letters:
        raise DataError(
            f"got the right letter {gold_letter!r}; the options are {', '.join(letters)}"
        )
    answer = after_thinking(response, thinking_ended)
    letter, shown = (None, None) if answer is None else _last_letter(answer, letters, options)
    if letter is None:
        return Score(False, shown, "truncated" if truncated else "no_answer")
    return Score(letter == gold, letter, "ok")


def _last_letter(
    answer: str, letters: str, options: Sequence[str]
) -> tuple[str | None, str | None]:
    """The letter, and what it was read from."""
    said = [m for m in _SAID.finditer(answer) if m[1].upper() in letters and _is_letter(m)]
    box = last_box_at(answer)
    if said and (box is None or said[-1].start(1) > box[0]):
        letter = said[-1][1].upper()
        return letter, letter
    if box is None:
        return None, None
    return _boxed_letter(box[1], letters, options), box[1].strip() or None


def _is_letter(match: re.Match[str]) -> bool:
    """A small `a` after "the answer is" is an article, unless nothing follows it."""
    return match[1].isupper() or bool(_END.match(match.string, match.end(1)))


def _boxed_letter(content: str, letters: str, options: Sequence[str]) -> str | None:
    text = _LEAD.sub("", _WRAPPER.sub(r"\1", content), count=1).strip()
    match = _LETTER.fullmatch(text)
    if match and match[1] in letters:
        rest = (match[2] or "").strip()
        named = letters.index(match[1])
        if not rest or not _others(rest, letters) or same_text(rest, options[named]):
            return match[1]
        return None
    if len(text) == 1 and text.upper() in letters:
        return text.upper()
    equal = [letter for letter, option in zip(letters, options, strict=True)
             if same_text(content, option)]  # fmt: skip
    return equal[0] if len(equal) == 1 else None


def _others(rest: str, letters: str) -> bool:
    """Whether `rest`, after a first letter, is about more letters: `and C`, `, D`, `or B`."""
    return bool(re.fullmatch(rf"(?:(?:and|or|&|,|/|;)?\W*[{letters}]\b\W*)+", rest))
