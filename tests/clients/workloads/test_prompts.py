"""Recipes: their words are compared with what the harnesses publish."""

import pytest

from clients.errors import DataError
from clients.settings import Message
from clients.workloads.problem import Problem
from clients.workloads.prompts import RECIPES, check, messages

FREE = Problem("1", "t", "What is {x}?", "2", bare=True)
CHOICE = Problem("1", "t", "Which?", "B", options=("one", "{question}"), bare=True)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (
            "deepseek",
            "What is {x}?\nPlease reason step by step, and put your final answer within \\boxed{}.",
        ),
        ("lm_eval", "Question: What is {x}?\nAnswer:"),
        ("evalchemy", "Problem: What is {x}?\nMark your solution with \\boxed\nAnswer:"),
        ("none", "What is {x}?"),
    ],
)
def test_free_answers(name: str, asked: str) -> None:
    assert messages(FREE, name) == (Message("user", asked),)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("deepseek", "Which?\n(A) one\n(B) {question}\nPlease reason step by step, and put the "
         "letter of your final answer within \\boxed{}."),
        ("lighteval", "before answering.\n\nWhich?\n\nA) one\nB) {question}"),
        ("lm_eval", "question:Which?\nChoices:\n(A) one\n(B) {question}\nLet's think step by "
         "step: "),
    ],
)  # fmt: skip
def test_multiple_choice(name: str, ending: str) -> None:
    assert messages(CHOICE, name)[0].content.endswith(ending)


def test_a_system_message() -> None:
    system, user = messages(FREE, "qwen")
    assert (system.role, user) == ("system", Message("user", FREE.prompt))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_asks_the_question_once(name: str) -> None:
    text = "".join(message.content for message in messages(FREE, name))
    assert text.count(FREE.prompt) == 1
    if RECIPES[name].choice is not None:
        text = "".join(message.content for message in messages(CHOICE, name))
        assert text.count("one\n") == 1


def test_a_problem_that_is_not_bare_is_sent_as_it_stands() -> None:
    assert messages(Problem("1", "hop", "hop g", "2"), "lighteval") == (Message("user", "hop g"),)


def test_recipes_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="unknown prompt 'nope'; there are deepseek"):
        messages(FREE, "nope")
    with pytest.raises(DataError, match="no form for multiple choice, which t is; choose from dee"):
        check("evalchemy", CHOICE)
    check("evalchemy", FREE)
    check("deepseek", CHOICE)
