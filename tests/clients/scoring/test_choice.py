"""Which letter a response ends on."""

import pytest

from clients.errors import DataError
from clients.scoring import Score, score_choice

OPTIONS = ("5 eV", "6 eV", r"$\frac{1}{2}$ eV", "5 eV and 6 eV")


@pytest.mark.parametrize(
    "response",
    [
        r"\boxed{A}",
        r"\boxed{\text{A}}",
        r"\boxed{\textbf{(A)}}",
        r"\boxed{(A)}",
        r"\boxed{A) 5 eV}",
        r"\boxed{\text{A. 5 eV}}",
        r"\boxed{A, 5 eV}",
        r"\boxed{a}",
        r"\boxed{5 eV}",
        r"\boxed{5\text{ eV}}",
        r"\boxed{\text{Answer: A}}",
        r"\boxed{\text{Option A}}",
        r"$\boxed{A}$",
        r"Answer: $\boxed{A}$",
        r"Answer: \boxed{\textbf{A}}",
        "Answer: A",
        "answer: a",
        "**Answer: A**",
        "**Answer:** A",
        "Answer: (A) 5 eV",
        "The correct answer is (A).",
        "The answer is **A**",
        "so the answer is option A",
        "Answer: B\nNo, wait.\nAnswer: A",
        r"\boxed{B}? No. Final answer: A",
        r"Answer: B. Better: \boxed{A}",
        r"\boxed{B} \boxed{A}",
        "\\boxed{A}\nThe answer is a good one.",
        r"<think>\boxed{B}</think>\boxed{A}",
    ],
)
def test_a_right_letter(response: str) -> None:
    assert score_choice(response, "A", OPTIONS) == Score(True, "A", "ok")


@pytest.mark.parametrize(
    ("response", "extracted", "status"),
    [
        (r"\boxed{B}", "B", "ok"),
        ("The answer is B, not A.", "B", "ok"),
        (r"\boxed{A} no, \boxed{\frac12\text{ eV}}", "C", "ok"),
        (r"\boxed{A and B}", "A and B", "no_answer"),
        (r"\boxed{A, C}", "A, C", "no_answer"),
        (r"\boxed{AB}", "AB", "no_answer"),
        (r"\boxed{E}", "E", "no_answer"),
        (r"\boxed{7 eV}", "7 eV", "no_answer"),
        (r"\boxed{}", None, "no_answer"),
        ("the answer is a matter of taste", None, "no_answer"),
        ("A is tempting, but", None, "no_answer"),
        (r"<think>\boxed{A}", None, "no_answer"),
        ("", None, "no_answer"),
    ],
)
def test_other_responses(response: str, extracted: str | None, status: str) -> None:
    assert score_choice(response, "A", OPTIONS) == Score(False, extracted, status)  # type: ignore[arg-type]


def test_truncated_before_an_answer() -> None:
    assert score_choice("so far", "A", OPTIONS, truncated=True).status == "truncated"
    assert score_choice(r"\boxed{A} and", "A", OPTIONS, truncated=True).correct
    assert not score_choice(r"\boxed{A}", "A", OPTIONS, thinking_ended=False).correct


def test_two_equal_options_are_no_answer() -> None:
    assert score_choice(r"\boxed{7}", "A", ("7", "7.0", "8", "9")).status == "no_answer"


@pytest.mark.parametrize("letter", ["E", "", "AB", "1"])
def test_a_gold_letter_without_an_option(letter: str) -> None:
    with pytest.raises(DataError, match="the options are A, B, C, D"):
        score_choice(r"\boxed{A}", letter, OPTIONS)
