"""Problems from a plain JSONL file: one object per line, columns named as public data sets do.

The question is `prompt`, sent as it stands, or `problem` / `question`, to which DeepSeek's
instruction is appended. The answer is `answer` / `expected_answer`, or the last box of `solution`.
"""

from pathlib import Path
from typing import Any

import msgspec

from clients.errors import DataError
from clients.scoring import last_box
from clients.workloads.problem import Problem

VERBATIM_COLUMNS = ("prompt", "Prompt")
QUESTION_COLUMNS = ("problem", "Problem", "question", "Question")
ANSWER_COLUMNS = ("answer", "Answer", "expected_answer")
SOLUTION_COLUMNS = ("solution", "Solution")
ID_COLUMNS = ("id", "ID", "unique_id")
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def load(path: Path, n: int | None = None) -> list[Problem]:
    """The first `n` problems of the file, or all; the task is named after the file.

    Problems without an id get the number of their line.

    Raises:
        DataError: the file is missing or empty, or a line cannot be used; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the data set {path}: {error}") from error
    found: dict[str, Problem] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if n is not None and len(found) == n:
            break
        problem = _problem(line, path, number)
        if problem.id in found:
            raise DataError(f"{path}:{number}: the id {problem.id!r} is used twice")
        found[problem.id] = problem
    if not found:
        raise DataError(f"{path} holds no problems")
    return list(found.values())


def _problem(line: str, path: Path, number: int) -> Problem:
    where = f"{path}:{number}"
    try:
        row = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise DataError(f"{where}: not JSON ({error}); each line must be one object") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: got a JSON {type(row).__name__}; each line must be an object")
    identity = _first(row, ID_COLUMNS)
    return Problem(
        id=str(number) if identity is None else str(identity),
        task=path.stem,
        prompt=_prompt(row, where),
        answer=_answer(row, where),
    )


def _prompt(row: dict[str, Any], where: str) -> str:
    verbatim = _first(row, VERBATIM_COLUMNS)
    asked = _first(row, QUESTION_COLUMNS) if verbatim is None else verbatim
    if not isinstance(asked, str) or not asked.strip():
        wanted = ", ".join(VERBATIM_COLUMNS + QUESTION_COLUMNS)
        raise DataError(
            f"{where}: no question; got the columns {_names(row)}, want one of {wanted}"
        )
    return asked if verbatim is not None else asked + INSTRUCTION


def _answer(row: dict[str, Any], where: str) -> str:
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
    return str(answer)


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _names(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row)) or "(none)"
