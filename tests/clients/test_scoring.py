"""Which responses are right, and why the others are not."""

import pytest

from clients.scoring import last_box, same_answer, score_math


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
        (" 2 7 ", "27"),
        (r"\text{A}", "A"),
        (r"\mathrm{A}.", "A"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"\left(1, 2\right)", "(1,2)"),
        ("9" * 400, "9" * 400),
    ],
)
def test_equal_answers(answer: str, gold: str) -> None:
    assert same_answer(answer, gold)
    assert same_answer(gold, answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("27", "28"),
        ("27", "-27"),
        ("1,2", "12"),
        ("12,34", "1234"),
        ("1e3", "1000"),
        ("9" * 400, "9" * 399 + "8"),
        ("0.1", "0.10000000000000001"),
        ("A", "B"),
        ("", ""),
        ("nan", "NaN"),
        ("2516_8", "2516"),
    ],
)
def test_different_answers(answer: str, gold: str) -> None:
    assert not same_answer(answer, gold)


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
