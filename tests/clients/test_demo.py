"""The demo's knobs, and what it says where it cannot run. It itself runs end to end elsewhere."""

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from clients.demo import FULL, QUICK, Demo, run_demo
from clients.errors import LocalServerError

BLOCK = 16
PROMPT = 16
TRACE = 250  # tokens of a mean answer


def blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)


@pytest.mark.parametrize("demo", [FULL, QUICK], ids=["full", "quick"])
def test_the_smallest_budget_fits_and_the_whole_cache_does_not(demo: Demo) -> None:
    smallest = min(budget for budget in demo.budgets if budget is not None)
    assert demo.concurrency * blocks(smallest) <= demo.kv_blocks
    assert demo.concurrency * blocks(PROMPT + TRACE) >= 2 * demo.kv_blocks
    assert blocks(PROMPT + demo.max_tokens) <= demo.kv_blocks
    assert None in demo.budgets
    assert demo.concurrency <= demo.problems


def test_the_plan_is_greedy_on_unseen_problems() -> None:
    plan = QUICK.plan()
    assert set(plan.problems) == set(QUICK.tasks)
    assert plan.settings.temperature == 0
    assert all(len(problems) == QUICK.problems for problems in plan.problems.values())
    prompts = {p.prompt for problems in FULL.plan().problems.values() for p in problems}
    assert {p.prompt for problems in plan.problems.values() for p in problems} <= prompts


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    work = run_demo(QUICK, tmp_path / "out", Console(file=io.StringIO()), tmp_path)
    with pytest.raises(LocalServerError, match="needs the model pocket-llama"):
        asyncio.run(work)
