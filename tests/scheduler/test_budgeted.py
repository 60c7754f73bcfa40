"""Budgeted requests: a promised peak, eviction at the cap, and no preemption."""

import pytest

from scheduler.plan import StepPlan
from scheduler.request import Request
from tests.builders import BLOCK, Bench, chunks_of, make_request, tokens_alone


def _shape(plans: list[StepPlan]) -> list[list[tuple[object, ...]]]:
    """Plans without what depends on who asked."""
    return [
        [(c.start, c.count, c.kv_start, c.samples, tuple(c.sequence.blocks)) for c in plan.chunks]
        for plan in plans
    ]


def _evictions_of(bench: Bench, request: Request) -> list[tuple[int, int, int]]:
    return [
        (e.position, e.tokens, e.keep)
        for plan in bench.plans
        for e in plan.evictions
        if e.sequence.request is request
    ]


def test_the_peak_is_promised_when_the_request_is_admitted() -> None:
    bench = Bench(blocks=16)
    assert bench.submit(make_request(10, new=100, cap=32)) == 8
    assert bench.scheduler.kv.promised == 0, "nothing is promised to who waits"
    bench.step()
    pool = bench.scheduler.kv.pool
    assert (bench.scheduler.kv.promised, pool.held, bench.scheduler.kv.spare) == (5, 3, 8)


def test_no_more_are_admitted_than_can_all_reach_their_peak() -> None:
    bench = Bench(blocks=20)
    requests = [make_request(4, new=100, cap=32) for _ in range(4)]
    bench.submit(*requests)
    bench.step()
    assert len(bench.running()) == 2
    assert bench.scheduler.kv.pool.available == 18
    bench.drain()


def test_without_a_budget_none_is_promised() -> None:
    assert Bench().submit(make_request(10, new=100)) == 0


def test_a_budgeted_request_is_never_preempted_whatever_runs_beside_it() -> None:
    bench = Bench(blocks=16)
    budgeted = [make_request(8, new=40, cap=20, priority=-5) for _ in range(2)]
    others = [make_request(6, new=30) for _ in range(4)]
    bench.submit(*budgeted, *others)
    bench.drain()
    assert bench.scheduler.totals.preemptions > 0
    assert all(bench.usage[request.key, 0].preemptions == 0 for request in budgeted)
    for request in (*budgeted, *others):
        assert bench.tokens[request.key, 0] == tokens_alone(request)


def test_at_the_cap_a_round_leaves_the_cap_less_the_reclaim() -> None:
    bench = Bench()
    bench.submit(request := make_request(8, new=40, cap=20, reclaim=6))
    bench.drain()
    assert _evictions_of(bench, request) == [(20 + 6 * i, 20, 14) for i in range(5)]


def test_eviction_waits_until_a_token_needs_the_room() -> None:
    bench = Bench()
    bench.submit(request := make_request(8, new=13, cap=20))
    bench.drain()
    assert _evictions_of(bench, request) == [], "20 tokens are written, the last drawn is not"
    bench.submit(request := make_request(8, new=14, cap=20))
    bench.drain()
    assert len(_evictions_of(bench, request)) == 1


def test_an_output_never_holds_more_than_its_cap() -> None:
    bench = Bench()
    bench.submit(request := make_request(11, new=90, cap=21, recent=3, reclaim=5))
    bench.drain()
    held = [chunk.kv_start + chunk.count for chunk in chunks_of(bench.plans, request)]
    assert max(held) == 21
    assert bench.usage[request.key, 0].kv_tokens_peak == 21
    assert bench.usage[request.key, 0].kv_blocks_peak == 6


def test_positions_go_on_while_slots_go_back() -> None:
    bench = Bench()
    bench.submit(request := make_request(8, new=30, cap=20, reclaim=6))
    bench.drain()
    chunks = chunks_of(bench.plans, request)
    ends = [0, *(chunk.start + chunk.count for chunk in chunks)]
    assert [chunk.start for chunk in chunks] == ends[:-1]
    assert [c.kv_start for c in chunks if c.start in (19, 20, 21)] == [19, 14, 15]


def test_a_compaction_frees_its_blocks_in_that_very_plan() -> None:
    bench = Bench(blocks=10)
    bench.submit(request := make_request(8, new=40, cap=32, reclaim=14))
    bench.steps(25)
    pool = bench.scheduler.kv.pool
    table = bench.blocks_of(request)
    assert (len(table), pool.held) == (8, 8)
    (eviction,) = bench.step().evictions
    assert eviction.blocks == tuple(table)
    assert bench.blocks_of(request) == table[:5]
    assert (pool.held, pool.available, bench.scheduler.kv.promised) == (5, 5, 3)


def test_blocks_that_one_frees_another_may_write_in_the_same_step() -> None:
    bench = Bench(blocks=16)
    first, second = (make_request(8, new=60, cap=32, reclaim=14) for _ in range(2))
    bench.submit(first)
    bench.steps(8)
    bench.submit(second)
    reused = False
    while bench.scheduler.num_live:
        plan = bench.step()
        freed = {b for e in plan.evictions for b in e.blocks[-(-e.keep // BLOCK) :]}
        reused |= any(block in freed for s in bench.scheduler.running for block in s.blocks)
    assert reused, "the test tests nothing"
    assert bench.tokens[second.key, 0] == tokens_alone(second)


def test_a_prompt_larger_than_its_budget_is_computed_in_chunks_below_the_cap() -> None:
    bench = Bench(max_batch_tokens=64)
    request = make_request(50, new=10, cap=16, reclaim=6, evict_prompt=True)
    bench.submit(request)
    bench.drain()
    chunks = chunks_of(bench.plans, request)
    assert [chunk.count for chunk in chunks[:7]] == [16, 6, 6, 6, 6, 6, 4]
    assert [chunk.samples for chunk in chunks[:7]] == [False] * 6 + [True]
    assert max(chunk.kv_start + chunk.count for chunk in chunks) == 16
    assert bench.tokens[request.key, 0] == tokens_alone(make_request([*request.prompt], new=10))


@pytest.mark.parametrize("cap", [28, 29, 1000])
@pytest.mark.parametrize("evict_prompt", [False, True])
def test_a_budget_of_at_least_the_length_plans_as_no_budget_does(
    cap: int, evict_prompt: bool
) -> None:
    shapes, tokens = [], []
    for budget in (None, cap):
        bench = Bench(blocks=1000)
        requests = [
            make_request(20, new=8, key=key, cap=budget, evict_prompt=evict_prompt and bool(budget))
            for key in range(1, 7)
        ]
        bench.submit(*requests)
        bench.drain()
        shapes.append(_shape(bench.plans))
        tokens.append(bench.tokens)
        assert not any(plan.evictions for plan in bench.plans)
    assert shapes[0] == shapes[1]
    assert tokens[0] == tokens[1]


def test_usage_and_totals_count_what_was_evicted() -> None:
    bench = Bench()
    bench.submit(request := make_request(8, new=40, cap=20, reclaim=6))
    bench.drain()
    usage, totals = bench.usage[request.key, 0], bench.scheduler.totals
    assert (usage.eviction_rounds, usage.kv_tokens_evicted) == (5, 30)
    assert usage.kv_tokens_final == 8 + 39 - 30
    assert (totals.rounds, totals.evicted) == ({"window": 5}, {"window": 30})


def test_many_small_budgets_fill_the_pool_to_its_last_block() -> None:
    bench = Bench(blocks=40)
    requests = [make_request(8, new=60, cap=20) for _ in range(12)]
    bench.submit(*requests)
    bench.steps(30)
    assert bench.scheduler.kv.spare == 0
    assert len(bench.running()) == 8
    bench.drain()
    for request in requests:
        assert bench.tokens[request.key, 0] == tokens_alone(request)
