"""Rows and plans for tests."""

from typing import Any

from clients.records import Record
from clients.workloads.problem import Problem


def row(problem: str = "p", **changes: Any) -> Record:
    """A right answer of 10 tokens in one second under the whole cache, unless told otherwise."""
    fields: dict[str, Any] = {
        "run": "r",
        "model": "m",
        "task": "t",
        "problem": problem,
        "sample": 0,
        "seed": 1,
        "budget": None,
        "policy": None,
        "gold": "1",
        "extracted": "1",
        "correct": True,
        "status": "ok",
        "finish_reason": "stop",
        "completion_tokens": 10,
        "end": 1.0,
    }
    return Record(**fields | changes)


def failed(problem: str = "p", **changes: Any) -> Record:
    """A request that failed."""
    fields = {
        "status": "error",
        "error": "INTERNAL: x",
        "correct": False,
        "extracted": None,
        "finish_reason": None,
        "completion_tokens": 0,
    }
    return row(problem, **fields | changes)


def problem(index: int, task: str = "t") -> Problem:
    """A problem whose prompt tells the scripted model what to answer."""
    return Problem(f"{task}-{index}", task, f"\\boxed{{{index}}}", str(index))
