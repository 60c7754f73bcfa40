r"""Two answers as text and as exact numbers. Says equal, different, or that it cannot tell.

What it decides, math-verify never sees: that is quicker, and stricter where math-verify is lenient
(`1:2` is not 1/2, `2516_8` is not 2516, `neve` is not `even`).
"""

import re
from decimal import Decimal, InvalidOperation

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
)
_PUNCTUATION = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*([:;,.])\s*\}")
_THOUSANDS = re.compile(r"(?<=\d)(?:\\[,;:! ]|\{,\}|\{\\,\}|[ ~])(?=\d{3}(?!\d))")
_SPACING = re.compile(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\[,;:!> ]|~")
_NOISE = re.compile(r"(?<!\d)\s+|\s+(?!\d)|\$")  # a space between digits is kept: 1 2 is not 12
_FRACTION = re.compile(r"\\[dtc]frac")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\{[^{}]*\}|[0-9a-zA-Z])\s*(\{[^{}]*\}|[0-9a-zA-Z])")
_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)?(\.\d*)?")
_BASED = re.compile(r"_\{?(\d+)\}?$")  # 2516_8
_WORD = re.compile(r"[^\W\d_]{4,}")
_UNIT = re.compile(
    r"\{?(?:square|sq\.?|cubic|cu\.?)?(?:inch(?:es)?|f(?:ee|oo)t|ft|yards?|miles?|"
    r"(?:centi|milli|kilo)?met(?:er|re)s?|[cmk]m|"
    r"(?:kilo)?grams?|kg|seconds?|minutes?|hours?|days?|weeks?|months?|years?|"
    r"degrees?|dollars?|cents?|units?|points?|mph)\}?(?:\^\{?[23]\}?)?",
    re.IGNORECASE,
)


def same_text(answer: str, gold: str) -> bool | None:
    r"""Whether the two are equal: 027 = 27 = 27.0, 1{,}000 = 12\,000; None if text cannot tell.

    Two plain numbers, two plain words, and a based number or a ratio against anything else are
    always decided here.
    """
    left, right = _normalise(answer), _normalise(gold)
    if left == right:
        return bool(left)
    if not left or not right:
        return False
    left, right = _without_unit(left, right), _without_unit(right, left)
    numbers = _number(left), _number(right)
    if None not in numbers:
        return numbers[0] == numbers[1]
    if _WORD.fullmatch(left) and _WORD.fullmatch(right):
        return left.casefold() == right.casefold()
    if _BASED.findall(left) != _BASED.findall(right) or (":" in left) != (":" in right):
        return False
    return True if left == right else None


def tidy(text: str) -> str:
    r"""`text` without what math-verify reads wrongly: `5.`, `12\,000`, `4\text{:}30`, `\frac1d`."""
    text = _PUNCTUATION.sub(r"\1", text.replace("\u2212", "-"))
    text = _THOUSANDS.sub("", text).strip().strip("$").strip()
    text = _SHORT_FRACTION.sub(_whole_fraction, _FRACTION.sub(r"\\frac", text))
    return text.rstrip(".,; ") or text


def _normalise(text: str) -> str:
    text = _WRAPPER.sub(r"\1", tidy(text))
    text = _NOISE.sub("", _SPACING.sub("", text))
    text = _BASED.sub(r"_\1", text)
    bare = text.rstrip(".")
    if re.fullmatch(r"\([A-Za-z]\)", bare):  # (A), a choice
        return bare[1:-1]
    return bare or text


def _whole_fraction(match: re.Match[str]) -> str:
    top, bottom = (part if part.startswith("{") else f"{{{part}}}" for part in match.groups())
    return rf"\frac{top}{bottom}"


def _without_unit(text: str, other: str) -> str:
    """`text` without the unit at its end, where what is left and `other` are plain numbers."""
    if _number(other) is None:
        return text
    for match in _UNIT.finditer(text):
        if match.end() == len(text) and _number(text[: match.start()]) is not None:
            return text[: match.start()]
    return text


def _number(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
