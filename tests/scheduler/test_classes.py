"""Budget classes: which budgets are in which, and what they count while outputs come and go.

That they add up whatever happens is an invariant of tests/scheduler/test_state_machine.py.
"""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.budget import Budget
from scheduler.classes import BudgetClasses
from scheduler.scheduler import Scheduler
from tests.builders import BLOCK, Bench, make_request


def _budget(cap: int) -> Budget:
    return Budget(cap, "window", {}, recent=1, pinned=1, reclaim=1)


def _counts(scheduler: Scheduler) -> list[tuple[int, int, int, int, int]]:
    return [(c.bound, c.running, c.waiting, c.blocks, c.tokens) for c in scheduler.kv.classes]


@given(pool=st.integers(1, 2**40), cap=st.integers(1, 2**40))
def test_a_class_holds_the_budgets_above_half_its_bound(pool: int, cap: int) -> None:
    bound = BudgetClasses(pool).of(_budget(cap)).bound
    assert bound & (bound - 1) == 0
    assert bound // 2 < min(cap, pool) <= bound


@given(pool=st.integers(1, 2**20), caps=st.sets(st.integers(1, 2**40), max_size=200))
def test_classes_are_few_however_many_budgets_there_are(pool: int, caps: set[int]) -> None:
    classes = BudgetClasses(pool)
    for cap in caps:
        classes.of(_budget(cap)).live += 1
    bounds = [counts.bound for counts in classes]
    assert bounds == sorted(bounds)
    assert len(bounds) <= pool.bit_length() + 1
    assert sum(counts.live for counts in classes) == len(caps)


def test_no_budget_comes_last_and_empty_classes_do_not_come() -> None:
    classes = BudgetClasses(1000)
    for budget in (None, _budget(5000), _budget(3)):
        classes.of(budget).live += 1
    classes.of(_budget(100))
    assert [counts.bound for counts in classes] == [4, 1024, 0]


def test_counts_follow_admission_growth_eviction_and_the_end() -> None:
    bench = Bench(blocks=16, max_running=1)
    budgeted, free = make_request(8, new=20, cap=20), make_request(9, new=3)
    bench.submit(budgeted, free)
    assert _counts(bench.scheduler) == [(32, 0, 1, 0, 0), (0, 0, 1, 0, 0)]
    bench.step()
    assert _counts(bench.scheduler) == [(32, 1, 0, 2, 8), (0, 0, 1, 0, 0)]
    bench.steps(13)  # at 20 entries 4 went, and one came
    assert bench.scheduler.totals.evicted["window"] == 4
    assert _counts(bench.scheduler) == [(32, 1, 0, 5, 17), (0, 0, 1, 0, 0)]
    bench.cancel(budgeted)
    bench.step()
    assert _counts(bench.scheduler) == [(0, 1, 0, 3, 9)]
    bench.drain()
    assert _counts(bench.scheduler) == []


def test_a_shared_block_counts_for_each_output_and_the_pool_says_how_often() -> None:
    bench = Bench(blocks=32)
    bench.submit(make_request(3 * BLOCK + 1, new=8, n=3))
    bench.steps(2)
    pool = bench.scheduler.kv.pool
    assert _counts(bench.scheduler) == [(0, 3, 0, 12, 3 * 13 + 1)]
    assert (pool.held, pool.shared) == (6, 6)
