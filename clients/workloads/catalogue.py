"""Which problems there are to ask. To add a listed task: write its loader, list it here."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from clients.errors import DataError
from clients.workloads import jsonl
from clients.workloads.pocket import FAMILIES, problems
from clients.workloads.problem import Problem

Loader = Callable[[int, int], list[Problem]]
"""(how many, seed) -> problems; a larger n extends the list and keeps its beginning."""

WORKLOADS: dict[str, Loader] = {name: partial(problems, name) for name in FAMILIES}


PROBLEMS = 48  # of a listed task, unless told otherwise


def choose(
    tasks: Sequence[str], dataset: Path | None, n: int | None, seed: int
) -> dict[str, tuple[Problem, ...]]:
    """Problems by task: `n` of each listed task, or (the first n) of a JSONL file.

    Raises:
        DataError: neither or both are given, a task is unknown, or the file cannot be used.
    """
    if bool(tasks) == (dataset is not None):
        raise DataError("give either tasks (--tasks hop,acct) or a file (--dataset FILE.jsonl)")
    if n is not None and n < 1:
        raise DataError(f"got {n} problems; want at least 1")
    if dataset is not None:
        problems = jsonl.load(dataset, n)
        return {problems[0].task: tuple(problems)}
    for task in tasks:
        if task not in WORKLOADS:
            raise DataError(
                f"unknown task {task!r}; there are {', '.join(WORKLOADS)}. "
                "For a file of your own use --dataset FILE.jsonl"
            )
    return {task: tuple(WORKLOADS[task](n or PROBLEMS, seed)) for task in tasks}
