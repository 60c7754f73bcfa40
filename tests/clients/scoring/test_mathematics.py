"""Which responses are right, and why the others are not."""

import pytest

from clients.scoring import Score, last_box, score_math
from clients.scoring.judge import Judge, NoVerdict
from clients.scoring.text import same_text


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} and then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{}", ""),
        (r"\boxed{1} then \boxed{2", None),
        (r"\boxed{a\}", None),
        (r"boxed{5}", None),
        (r"\boxed 5", None),
        ("", None),
    ],
)
def test_last_box(text: str, content: str | None) -> None:
    assert last_box(text) == content


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("27", "27"),
        ("027", "27"),
        ("27.0", "27"),
        ("27.", "27"),
        ("27", "27.0"),
        ("+27", "27"),
        ("-1", "-1.0"),
        (".5", "0.50"),
        ("3,159", "3159"),
        ("1{,}000", "1000"),
        (r"12\,000", "12000"),
        (r"12\!000", "12000"),
        ("$27$", "27"),
        (" 27 ", "27"),
        ("12 000", "12000"),
        (r"\text{(A)}", "A"),
        (r"4\text{:}30", "4:30"),
        (r"\arctan\frac1d", r"\arctan \frac{1}{d}"),
        (r"\frac12", r"\dfrac{1}{2}"),
        ("16{squareinches}", "16"),
        (r"16\text{ cm}^2", "16"),
        ("27 miles", "27"),
        ("27", r"27\text{ miles}"),
        ("\u22127", "-7"),
        ("Even", r"\text{even}"),
        ("1011_2", "1011_{2}"),
        (r"\text{A}", "A"),
        (r"\mathrm{A}.", "A"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left(1, 2\right)", "(1,2)"),
        ("9" * 400, "9" * 400),
    ],
)
def test_equal_answers(answer: str, gold: str) -> None:
    assert same_text(answer, gold) is True
    assert same_text(gold, answer) is True


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("27", "28"),
        ("27", "-27"),
        ("9" * 400, "9" * 399 + "8"),
        ("0.1", "0.10000000000000001"),
        ("", ""),
        ("", "5"),
        ("2516_8", "2516"),
        ("1011_2", "1011_3"),
        ("1:2", r"\frac12"),
        ("neve", "even"),
        ("Monday", "Tuesday"),
        ("28 miles", "27"),
    ],
)
def test_different_answers(answer: str, gold: str) -> None:
    assert same_text(answer, gold) is False
    assert same_text(gold, answer) is False


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("1,2", "12"), ("1 2", "12"), ("1e3", "1000"), ("A", "B"), (r"\sqrt{4}", "2"), ("5x", "5")],
)
def test_what_text_cannot_tell(answer: str, gold: str) -> None:
    assert same_text(answer, gold) is None
    assert same_text(gold, answer) is None


@pytest.mark.parametrize(
    ("response", "truncated", "thinking_ended", "expected"),
    [
        (r"so </think>it is \boxed{7}", False, None, (True, "7", "ok")),
        (r"so </think>it is \boxed{8}", False, None, (False, "8", "ok")),
        (r"no tags at all \boxed{7}", False, None, (True, "7", "ok")),
        # a box inside thinking is no answer, whoever says that thinking went on
        (r"<think>\boxed{7}", False, None, (False, None, "no_answer")),
        (r"<think>\boxed{7}", True, None, (False, None, "truncated")),
        (r"\boxed{7} wait", True, False, (False, None, "truncated")),
        (r"\boxed{7} wait", False, False, (False, None, "no_answer")),
        (r"\boxed{7}</think>well", False, None, (False, None, "no_answer")),
        # only what follows the last end of thinking counts
        (r"a</think>\boxed{7}</think>\boxed{9}", False, None, (False, "9", "ok")),
        (r"a</think>\boxed{7}</think>well", False, None, (False, None, "no_answer")),
        (r"a</think>\boxed{7}", False, True, (True, "7", "ok")),
        # the template hid the tags, the server knows that thinking ended
        (r"\boxed{1} so \boxed{7}", False, True, (True, "7", "ok")),
        # cut off after the answer was given: it was given
        (r"a</think>\boxed{7} because", True, None, (True, "7", "ok")),
        (r"a</think>\boxed{7", True, None, (False, None, "truncated")),
        (r"a</think>\boxed{}", False, None, (False, None, "no_answer")),
        ("a</think>27", False, None, (False, None, "no_answer")),
        ("", False, None, (False, None, "no_answer")),
        ("", True, None, (False, None, "truncated")),
    ],
)
def test_score(
    response: str,
    truncated: bool,
    thinking_ended: bool | None,
    expected: tuple[bool, str | None, str],
) -> None:
    score = score_math(response, "7", truncated, thinking_ended)
    assert (score.correct, score.extracted, score.status) == expected


def test_a_boxed_gold_is_unboxed() -> None:
    assert score_math(r"\boxed{7}", r"thus $\boxed{7}$").correct


def test_what_text_can_tell_starts_no_worker() -> None:
    class Nobody(Judge):
        def equal(self, answer: str, gold: str) -> bool:
            raise AssertionError("asked")

    nobody = Nobody()
    assert score_math(r"\boxed{027}", "27", judge=nobody).correct
    assert score_math(r"\boxed{28}", "27", judge=nobody) == Score(False, "28", "ok")
    long = "x" * 2001
    assert score_math(rf"\boxed{{{long}}}", "27", judge=nobody) == Score(False, long, "ok")


@pytest.mark.parametrize(
    ("broken", "status"), [(TimeoutError(), "timeout"), (NoVerdict(), "error")]
)
def test_without_a_verdict_there_is_no_zero(broken: Exception, status: str) -> None:
    class Broken(Judge):
        def equal(self, answer: str, gold: str) -> bool:
            raise broken

    score = score_math(r"\boxed{2x}", "x+x", judge=Broken())
    assert (score.correct, score.extracted, score.status) == (False, "2x", status)
