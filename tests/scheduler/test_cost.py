"""What a step costs grows with who runs, and with nothing else.

Counted in executed lines, which are the same on every machine; benchmarks measure the seconds.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from scheduler.plan import StepResult
from scheduler.scheduler import Scheduler
from scheduler.tenants import Tenant
from tests.builders import make_request, make_scheduler

SLACK = 1.5  # times; what is quadratic or looks at who waits is off by a hundred


def _crowded(
    running: int, waiting: int, n: int = 1, floor: int | None = None, tenants: int = 0
) -> Scheduler:
    """A scheduler whose rows are all decoding under budgets while others wait.

    With a floor the pool holds little more than the floors, and who waits could have a row.
    """
    rows = running if floor is None else running + 4
    blocks = running * 20 if floor is None else running * (floor // 4 + 3)
    scheduler = make_scheduler(
        blocks=blocks, max_running=rows, max_batch_tokens=4096, max_waiting=1_000_000
    )
    names = [Tenant(f"t{i}", 1.0 + i) for i in range(tenants)] or [Tenant()]
    for i in range(running + waiting // n):
        tenant = names[i % len(names)]
        if i < running:
            request = make_request(8, new=3000, cap=80, floor=floor, deadline=1e9, tenant=tenant)
        else:
            new = 3000 if floor is None else blocks * 4 - 8  # the whole pool
            cap = 80 if floor is None else blocks * 4
            request = make_request(8, new=new, cap=cap, n=n, deadline=1e9, tenant=tenant)
        scheduler.submit(request)
    for _ in range(4):
        _step(scheduler)
    assert len(scheduler.running) == running
    return scheduler


def _step(scheduler: Scheduler) -> None:
    plan = scheduler.plan(0.0)
    scheduler.commit(plan, StepResult([1] * sum(c.samples for c in plan.chunks)), 0.0)
    assert scheduler.num_live == len(scheduler.running) + scheduler.num_waiting


def _lines(work: Callable[[], object]) -> int:
    """How many lines of Python `work` executes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    assert count > 0
    return count


def _cost(scheduler: Scheduler) -> float:
    """Lines of a step per running output, over steps with and without evictions."""
    steps = 60
    return _lines(lambda: [_step(scheduler) for _ in range(steps)]) / len(scheduler.running)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
def test_a_step_costs_the_same_however_many_wait(n: int) -> None:
    assert _cost(_crowded(64, 20_000, n)) < SLACK * _cost(_crowded(64, 8))


@pytest.mark.slow
def test_tenants_do_not_make_it_dearer_to_let_others_wait() -> None:
    few, many = (_crowded(64, waiting, tenants=8) for waiting in (160, 20_000))
    cost = _cost(few)
    assert _cost(many) < SLACK * cost
    heads = [_lines(scheduler.waiting.head) for scheduler in (few, many)]
    assert heads[1] < SLACK * heads[0]


@pytest.mark.slow
def test_the_cost_per_output_stays_the_same_however_many_run() -> None:
    assert _cost(_crowded(512, 8)) < SLACK * _cost(_crowded(8, 8))


@pytest.mark.slow
def test_pressing_costs_the_same_per_output_however_many_run_and_wait() -> None:
    few, many = _crowded(8, 8, floor=40), _crowded(512, 8, floor=40)
    cost = _cost(few)
    assert few.totals.pressed > 100
    assert _cost(many) < SLACK * cost
    assert _cost(_crowded(64, 20_000, floor=40)) < SLACK * cost


@pytest.mark.slow
def test_submitting_costs_the_same_however_many_wait() -> None:
    def cost(waiting: int) -> int:
        scheduler = _crowded(8, waiting, n=4)
        requests = [make_request(8, n=4) for _ in range(500)]
        return _lines(lambda: [scheduler.submit(request) for request in requests])

    assert cost(20_000) < SLACK * cost(80)
