"""A row of a data set, whatever its columns are called, as a Problem.

The question is `prompt`, which is sent as it stands, or `problem` / `question`, around which a
prompt recipe is put. The answer is `answer` / `expected_answer`, or the last box of `solution`; or,
as GPQA has it, `Correct Answer` and `Incorrect Answer 1` to 3. `options` make it a multiple choice.
"""

import hashlib
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from clients.errors import DataError
from clients.scoring import last_box
from clients.workloads.problem import Problem
from clients.workloads.prompts import INSTRUCTION

VERBATIM_COLUMNS = ("prompt", "Prompt")
QUESTION_COLUMNS = ("problem", "Problem", "question", "Question")
ANSWER_COLUMNS = ("answer", "Answer", "expected_answer")
SOLUTION_COLUMNS = ("solution", "Solution")
ID_COLUMNS = ("id", "ID", "unique_id", "Record ID")
OPTION_COLUMNS = ("options", "choices")
CORRECT = "Correct Answer"
INCORRECT = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
IMAGE_COLUMNS = ("image", "decoded_image")
Row = Mapping[str, Any]


def problem(row: Row, where: str, task: str, number: int) -> Problem:
    """The problem of one row; its id is the row's own, or `number`.

    Raises:
        DataError: it has no question or no answer, or needs a picture; says where and what it has.
    """
    if any(row.get(name) is not None for name in IMAGE_COLUMNS):
        raise DataError(f"{where}: the problem has a picture, and only text can be sent")
    identity = _first(row, ID_COLUMNS)
    prompt, bare = _prompt(row, where)
    options, answer = _choice(row, where) if _is_choice(row) else ((), _answer(row, where))
    return Problem(
        id=str(number) if identity is None else str(identity),
        task=task,
        prompt=prompt,
        answer=answer,
        options=options,
        bare=bare,
    )


def shuffled(question: str, options: tuple[str, ...]) -> tuple[str, ...]:
    """`options` in an order that only the texts decide, so that re-scoring finds the same."""

    def place(option: str) -> bytes:
        return hashlib.sha256(f"{question}\0{option}".encode()).digest()

    return tuple(sorted(options, key=place))


def _prompt(row: Row, where: str) -> tuple[str, bool]:
    """The text, and whether it is a bare question."""
    verbatim = _first(row, VERBATIM_COLUMNS)
    asked = _first(row, QUESTION_COLUMNS) if verbatim is None else verbatim
    if not isinstance(asked, str) or not asked.strip():
        wanted = ", ".join(VERBATIM_COLUMNS + QUESTION_COLUMNS)
        raise DataError(
            f"{where}: no question; got the columns {_names(row)}, want one of {wanted}"
        )
    question = asked.removesuffix(f"\n{INSTRUCTION}")  # QwQ's files have DeepSeek's recipe applied
    return question, verbatim is None or question != asked


def _is_choice(row: Row) -> bool:
    return row.get(CORRECT) is not None or bool(_first(row, OPTION_COLUMNS))


def _choice(row: Row, where: str) -> tuple[tuple[str, ...], str]:
    """The options as shown, and the letter of the right one."""
    if row.get(CORRECT) is not None:
        texts = [row.get(name) for name in (CORRECT, *INCORRECT)]
        found = tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
        if len(set(found)) != 1 + len(INCORRECT):
            raise DataError(f"{where}: want four different texts in {CORRECT}, {INCORRECT[0]}-3")
        options = shuffled(str(_first(row, QUESTION_COLUMNS)), found)
        return options, ascii_uppercase[options.index(found[0])]
    given = _first(row, OPTION_COLUMNS)
    if not isinstance(given, list) or not 2 <= len(given) <= len(ascii_uppercase):
        raise DataError(f"{where}: got the options {given!r}, want a list of 2 to 26 texts")
    options = tuple(map(str, given))
    answer = _answer(row, where).strip()
    letters = ascii_uppercase[: len(options)]
    if options.count(answer) == 1:
        return options, letters[options.index(answer)]
    if len(answer) != 1 or answer not in letters:
        raise DataError(f"{where}: got the answer {answer!r}, want one of {letters} or an option")
    return options, answer


def _answer(row: Row, where: str) -> str:
    answer = _first(row, ANSWER_COLUMNS)
    if answer is None:
        solution = _first(row, SOLUTION_COLUMNS)
        answer = last_box(solution) if isinstance(solution, str) else None
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer == "":
        wanted = ", ".join(ANSWER_COLUMNS)
        raise DataError(
            f"{where}: no answer; got the columns {_names(row)}, want one of {wanted} "
            "(text or number), or a solution with a \\boxed{}"
        )
    boxed = last_box(answer) if isinstance(answer, str) else None
    return str(answer) if boxed is None else boxed


def _first(row: Row, names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _names(row: Row) -> str:
    return ", ".join(map(str, row)) or "(none)"
