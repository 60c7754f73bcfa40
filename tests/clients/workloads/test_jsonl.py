"""Data sets as plain files."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.errors import DataError
from clients.workloads import jsonl
from clients.workloads.catalogue import WORKLOADS, choose
from clients.workloads.problem import Problem

SHARED = Path(__file__).parents[4] / "shared" / "data"


def file(directory: Path, *rows: Any) -> Path:
    path = directory / "mine.jsonl"
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def test_a_prompt_is_sent_as_it_stands(tmp_path: Path) -> None:
    path = file(tmp_path, {"prompt": "1 + 1?\u2028", "problem": "unused", "answer": 2})
    assert jsonl.load(path) == [Problem("1", "mine", "1 + 1?\u2028", "2")]


@pytest.mark.parametrize("column", ["problem", "Problem", "question", "Question"])
def test_a_bare_problem_gets_the_instruction(tmp_path: Path, column: str) -> None:
    path = file(tmp_path, {column: "1 + 1?", "answer": "2"})
    assert jsonl.load(path)[0].prompt == "1 + 1?" + jsonl.INSTRUCTION


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"answer": 27.0}, "27.0"),
        ({"Answer": "027"}, "027"),
        ({"expected_answer": 0}, "0"),
        ({"solution": r"so \boxed{\frac{1}{2}}."}, r"\frac{1}{2}"),
        ({"answer": "3", "solution": r"\boxed{4}"}, "3"),
    ],
)
def test_answers(tmp_path: Path, columns: dict[str, Any], answer: str) -> None:
    assert jsonl.load(file(tmp_path, {"prompt": "?", **columns}))[0].answer == answer


def test_ids_are_kept_or_made_from_the_line(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "answer": 1, "id": 0}, "", {"prompt": "b", "answer": 1}]
    assert [problem.id for problem in jsonl.load(file(tmp_path, *rows))] == ["0", "3"]


def test_the_first_n(tmp_path: Path) -> None:
    path = file(tmp_path, *({"prompt": str(i), "answer": i} for i in range(5)), "garbage")
    assert [problem.answer for problem in jsonl.load(path, 2)] == ["0", "1"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"mine\.jsonl:2: not JSON"),
        ([1], r"mine\.jsonl:2: got a JSON list"),
        ({"answer": 1}, r"mine\.jsonl:2: no question; got the columns answer, want one of prompt"),
        ({"prompt": "  ", "answer": 1}, r"mine\.jsonl:2: no question"),
        ({"prompt": "a"}, r"mine\.jsonl:2: no answer; got the columns prompt, want one of answer"),
        ({"prompt": "a", "answer": True}, r"mine\.jsonl:2: no answer"),
        ({"prompt": "a", "answer": [1]}, r"mine\.jsonl:2: no answer"),
        ({"prompt": "a", "solution": "no box"}, r"mine\.jsonl:2: no answer"),
        ({"prompt": "a", "answer": 1, "id": "x"}, r"mine\.jsonl:2: the id 'x' is used twice"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        jsonl.load(file(tmp_path, {"prompt": "a", "answer": 1, "id": "x"}, row))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the data set"):
        jsonl.load(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no problems"):
        jsonl.load(file(tmp_path, ""))


@pytest.mark.parametrize(
    ("name", "count", "first"), [("aime24", 30, "204"), ("aime25", 30, "70"), ("amc23", 40, "27.0")]
)
def test_the_public_sets(name: str, count: int, first: str) -> None:
    path = SHARED / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{name}.jsonl is not beside this checkout")
    problems = jsonl.load(path)
    assert len(problems) == len({problem.id for problem in problems}) == count
    assert problems[0].answer == first
    assert all(problem.prompt.endswith(jsonl.INSTRUCTION) for problem in problems)
    assert all(problem.prompt.count("\\boxed{}") == 1 for problem in problems)


def test_listed_tasks(tmp_path: Path) -> None:
    chosen = choose(["hop", "memo"], None, 3, seed=1)
    assert {task: len(problems) for task, problems in chosen.items()} == {"hop": 3, "memo": 3}
    longer = choose(["hop"], None, 5, seed=1)["hop"]
    assert longer[:3] == chosen["hop"]


def test_a_file_is_one_task(tmp_path: Path) -> None:
    path = file(tmp_path, {"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2})
    assert {task: len(problems) for task, problems in choose([], path, None, 0).items()} == {
        "mine": 2
    }


@pytest.mark.parametrize(
    ("tasks", "dataset", "n", "message"),
    [
        ([], None, None, "give either tasks"),
        (["hop"], Path("x"), None, "give either tasks"),
        (["nope"], None, None, f"unknown task 'nope'; there are {', '.join(WORKLOADS)}"),
        (["hop"], None, 0, "got 0 problems"),
    ],
)
def test_a_choice_that_cannot_be(
    tasks: list[str], dataset: Path | None, n: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        choose(tasks, dataset, n, 0)
