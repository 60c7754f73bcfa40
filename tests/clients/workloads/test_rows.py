"""Rows of multiple choice sets, and rows that cannot be asked."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.errors import DataError
from clients.workloads import rows

GPQA = {
    "Record ID": "rec1",
    "Question": "Which?",
    "Correct Answer": "right",
    "Incorrect Answer 1": "one",
    "Incorrect Answer 2": " two ",
    "Incorrect Answer 3": "three",
    "Explanation": "because",
}


def problem(row: dict[str, Any]) -> Any:
    return rows.problem(row, "file:7", "gpqa", 7)


def test_gpqa_options_are_permuted_by_the_question_alone() -> None:
    first = problem(GPQA)
    assert sorted(first.options) == ["one", "right", "three", "two"]
    assert first.options["ABCD".index(first.answer)] == "right"
    assert (first.id, first.prompt, first.bare) == ("rec1", "Which?", True)
    assert problem({**GPQA, "Record ID": "rec2"}).options == first.options
    # the same everywhere and for ever: recorded answers are letters
    assert first.options == ("three", "right", "two", "one")


def test_the_right_answer_is_at_every_letter() -> None:
    letters = [problem({**GPQA, "Question": f"Which {i}?"}).answer for i in range(200)]
    assert all(30 < letters.count(letter) < 70 for letter in "ABCD")


@given(st.text(min_size=1), st.lists(st.text(), min_size=2, max_size=6, unique=True))
def test_a_permutation_keeps_every_option(question: str, options: list[str]) -> None:
    assert sorted(rows.shuffled(question, tuple(options))) == sorted(options)


@pytest.mark.parametrize("answer", ["B", "6 cm"])
def test_published_options_keep_their_order(answer: str) -> None:
    found = problem({"question": "How long?", "options": ["5 cm", "6 cm"], "answer": answer})
    assert (found.options, found.answer) == (("5 cm", "6 cm"), "B")


def test_empty_options_are_a_free_answer() -> None:
    assert problem({"question": "How long?", "options": [], "answer": "6"}).options == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GPQA, "Incorrect Answer 3": None}, "file:7: want four different texts"),
        ({**GPQA, "Incorrect Answer 3": "two"}, "file:7: want four different texts"),
        ({"question": "?", "options": "AB", "answer": "A"}, "file:7: got the options 'AB'"),
        (
            {"question": "?", "options": ["a", "b"], "answer": "C"},
            "got the answer 'C', want one of AB",
        ),
        ({"question": "?", "image": "x.png", "answer": "C"}, "file:7: the problem has a picture"),
    ],
)
def test_what_cannot_be_asked(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        problem(row)
