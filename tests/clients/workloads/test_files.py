"""Data sets as plain files."""

import json
from pathlib import Path
from typing import Any

import pytest

from clients.errors import DataError
from clients.workloads import files
from clients.workloads.catalogue import NAMES, choose
from clients.workloads.problem import Problem
from clients.workloads.prompts import INSTRUCTION, messages

SHARED = Path(__file__).parents[4] / "shared" / "data"


def file(directory: Path, *rows: Any) -> Path:
    path = directory / "mine.jsonl"
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return path


def test_a_prompt_is_sent_as_it_stands(tmp_path: Path) -> None:
    path = file(tmp_path, {"prompt": "1 + 1?\u2028", "problem": "unused", "answer": 2})
    assert files.load(path) == [Problem("1", "mine", "1 + 1?\u2028", "2")]


@pytest.mark.parametrize("column", ["problem", "Problem", "question", "Question"])
def test_a_bare_problem_waits_for_its_recipe(tmp_path: Path, column: str) -> None:
    path = file(tmp_path, {column: "1 + 1?", "answer": "2"})
    assert files.load(path) == [Problem("1", "mine", "1 + 1?", "2", bare=True)]


def test_a_prompt_with_deepseeks_instruction_is_a_bare_problem(tmp_path: Path) -> None:
    path = file(tmp_path, {"prompt": f"1 + 1?\n{INSTRUCTION}", "answer": "2"})
    assert files.load(path) == [Problem("1", "mine", "1 + 1?", "2", bare=True)]


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"answer": 27.0}, "27.0"),
        ({"Answer": "027"}, "027"),
        ({"expected_answer": 0}, "0"),
        ({"solution": r"so \boxed{\frac{1}{2}}."}, r"\frac{1}{2}"),
        ({"answer": "3", "solution": r"\boxed{4}"}, "3"),
        ({"answer": "", "solution": r"\boxed{4}"}, "4"),
        ({"answer": r"$\boxed{5}$"}, "5"),
    ],
)
def test_answers(tmp_path: Path, columns: dict[str, Any], answer: str) -> None:
    assert files.load(file(tmp_path, {"prompt": "?", **columns}))[0].answer == answer


def test_ids_are_kept_or_made_from_the_line(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "answer": 1, "id": 0}, "", {"prompt": "b", "answer": 1}]
    assert [problem.id for problem in files.load(file(tmp_path, *rows))] == ["0", "3"]


def test_the_first_n(tmp_path: Path) -> None:
    path = file(tmp_path, *({"prompt": str(i), "answer": i} for i in range(5)), "garbage")
    assert [problem.answer for problem in files.load(path, 2)] == ["0", "1"]


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
        files.load(file(tmp_path, {"prompt": "a", "answer": 1, "id": "x"}, row))


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the data set"):
        files.load(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no problems"):
        files.load(file(tmp_path, ""))


@pytest.mark.parametrize(
    ("name", "count", "first"), [("aime24", 30, "204"), ("aime25", 30, "70"), ("amc23", 40, "27.0")]
)
def test_the_public_sets(name: str, count: int, first: str) -> None:
    path = SHARED / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{name}.jsonl is not beside this checkout")
    problems = files.load(path)
    assert len(problems) == len({problem.id for problem in problems}) == count
    assert problems[0].answer == first
    asked = [messages(problem, "deepseek")[0].content for problem in problems]
    assert all(text.endswith(f"\n{INSTRUCTION}") for text in asked)
    assert all(text.count("\\boxed{}") == 1 for text in asked)


CSV = 'Problem,Answer,unused\n"1, 1",2,x\n"two\nlines",3,\n'


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("\ufeff" + CSV)
    assert files.load(path) == [
        Problem("2", "mine", "1, 1", "2", bare=True),
        Problem("4", "mine", "two\nlines", "3", bare=True),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Problem,Answer\n1,2,3\n", r"mine\.csv:2: more cells than the heading has"),
        ("Problem,Answer\n1\n", r"mine\.csv:2: no answer; got the columns Problem, Answer"),
        ('Problem,Answer\n"1,2\n', r"mine\.csv: not CSV after line 1"),
        ("Problem,Answer\n", "holds no problems"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        files.load(path)


def test_other_kinds_of_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"want a file in \.jsonl or \.csv"):
        files.load(tmp_path / "mine.parquet")


def test_listed_tasks() -> None:
    chosen = choose(["hop", "memo"], 3, seed=1)
    assert {task: len(problems) for task, problems in chosen.items()} == {"hop": 3, "memo": 3}
    longer = choose(["hop"], 5, seed=1)["hop"]
    assert longer[:3] == chosen["hop"]


def test_files_among_them(tmp_path: Path) -> None:
    path = file(tmp_path, {"prompt": "a", "answer": 1}, {"prompt": "b", "answer": 2})
    chosen = choose([str(path), f"other={path}", "hop"], 1, 0)
    assert {task: [p.task for p in problems] for task, problems in chosen.items()} == {
        "mine": ["mine"],
        "other": ["other"],
        "hop": ["hop"],
    }


@pytest.mark.parametrize(
    ("names", "n", "message"),
    [
        ([], None, "no data sets given; there are hop"),
        (["nope"], None, f"unknown data set 'nope'; there are {', '.join(NAMES)}, and files"),
        (["hop"], 0, "got 0 problems"),
        (["hop", "hop"], 1, "the data set hop is given twice"),
        (["nope.jsonl"], None, "cannot read the data set nope.jsonl"),
    ],
)
def test_a_choice_that_cannot_be(names: list[str], n: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose(names, n, 0)
