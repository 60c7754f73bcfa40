"""Benchmarks from the hub, with `datasets` in a place without a network."""

import os
import subprocess
import sys
from typing import Any

import datasets
import pytest

from clients.errors import DataError
from clients.workloads import hub

ROWS = {
    "aime24": [{"id": 60 + i, "problem": f"p{i}", "answer": "025"} for i in range(30)],
    "aime25": [{"problem": f"p{i}", "answer": 70} for i in range(30)],
    "amc23": [{"id": i, "question": f"p{i}", "answer": 27.0} for i in range(40)],
    "gpqa_diamond": [
        {
            "Question": f"p{i}",
            "Correct Answer": "a",
            "Incorrect Answer 1": "b",
            "Incorrect Answer 2": "c",
            "Incorrect Answer 3": "d",
        }
        for i in range(198)
    ],
}


def answer_with(monkeypatch: pytest.MonkeyPatch, reply: Any) -> list[tuple[Any, ...]]:
    asked = []

    def load_dataset(path: str, name: str | None, *, split: str) -> Any:
        asked.append((path, name, split))
        if isinstance(reply, Exception):
            raise reply
        return datasets.Dataset.from_list(reply)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("task", "first", "source"),
    [
        ("aime24", ("60", "p0", "025"), ("HuggingFaceH4/aime_2024", None, "train")),
        ("aime25", ("1", "p0", "70"), ("math-ai/aime25", None, "test")),
        ("amc23", ("0", "p0", "27.0"), ("math-ai/amc23", None, "test")),
        ("gpqa_diamond", ("1", "p0", "A"), ("Idavidrein/gpqa", "gpqa_diamond", "train")),
    ],
)
def test_sets(
    monkeypatch: pytest.MonkeyPatch, task: str, first: tuple[str, ...], source: tuple[Any, ...]
) -> None:
    asked = answer_with(monkeypatch, ROWS[task])
    problems = hub.load(task)
    assert asked == [source]
    assert len(problems) == hub.HUB_SETS[task].problems
    assert (problems[0].id, problems[0].prompt, problems[0].answer) == first
    assert all(problem.bare for problem in problems)
    assert hub.load(task, 2) == problems[:2]


def test_a_set_that_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, ROWS["aime24"][:29])
    with pytest.raises(DataError, match=r"has 29 rows where 30 were expected.*aime24=FILE\.jsonl"):
        hub.load("aime24")


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        (
            "gpqa_diamond",
            datasets.exceptions.DatasetNotFoundError("'Idavidrein/gpqa' is a gated dataset"),
            r"is gated. Accept its terms .* set HF_TOKEN .*gpqa_diamond=FILE\.csv",
        ),
        (
            "aime25",
            datasets.exceptions.DatasetNotFoundError("doesn't exist"),
            r"the hub has no math-ai/aime25; use a local file: aime25=FILE\.jsonl",
        ),
        (
            "amc23",
            ConnectionError("Couldn't reach 'math-ai/amc23' on the Hub"),
            r"cannot fetch math-ai/amc23 .*Couldn't reach.*amc23=FILE\.jsonl",
        ),
    ],
)
def test_refusals_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, task: str, error: Exception, message: str
) -> None:
    answer_with(monkeypatch, error)
    with pytest.raises(DataError, match=message):
        hub.load(task)


def test_without_a_network_there_is_one_clear_line() -> None:
    command = [sys.executable, "-m", "cli.main", "sweep", "--datasets", "gpqa_diamond"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": os.devnull}
    done = subprocess.run(command, env=offline, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("sluice: gpqa_diamond: cannot fetch Idavidrein/gpqa from the")
    assert done.stderr.count("\n") == 1
