"""Elastic budgets: a promised floor, spare blocks above it, and pressure from the longest down."""

from scheduler.request import Request
from tests.builders import BLOCK, Bench, chunks_of, first_step, make_request, tokens_alone


def _rounds(bench: Bench, request: Request) -> list[tuple[int, int, int]]:
    """Position, tokens and keep of every eviction of a request."""
    found = [e for plan in bench.plans for e in plan.evictions if e.sequence.request is request]
    return [(e.position, e.tokens, e.keep) for e in found]


def _held(bench: Bench, *requests: Request) -> list[int]:
    """KV tokens of running requests."""
    held = {s.request.key: s.kv_tokens for s in bench.scheduler.running}
    return [held[request.key] for request in requests]


def _until_full(bench: Bench) -> None:
    while bench.scheduler.kv.spare:
        assert not bench.step().empty


def test_only_the_floor_is_promised() -> None:
    bench = Bench(blocks=16)
    assert bench.submit(make_request(8, new=100, cap=60, floor=16)) == 4
    bench.step()
    kv = bench.scheduler.kv
    assert (kv.promised, kv.pool.held, kv.spare) == (2, 2, 12)


def test_with_blocks_to_spare_it_is_a_budget_of_its_cap() -> None:
    elastic, fixed = Bench(), Bench()
    elastic.submit(stretched := make_request(8, new=90, cap=40, floor=16))
    fixed.submit(stiff := make_request([*stretched.prompt], new=90, cap=40))
    elastic.drain()
    fixed.drain()
    assert _rounds(elastic, stretched) == _rounds(fixed, stiff) != []
    usage = elastic.usage[stretched.key, 0]
    assert (usage.kv_tokens_peak, usage.kv_tokens_pressed) == (40, 0)
    assert elastic.scheduler.totals.pressed == 0


def test_with_nothing_to_spare_it_is_a_budget_of_its_floor() -> None:
    elastic, fixed = Bench(blocks=5), Bench()
    elastic.submit(stretched := make_request(8, new=50, cap=40, floor=20))
    fixed.submit(stiff := make_request([*stretched.prompt], new=50, cap=20))
    elastic.drain()
    fixed.drain()
    assert _rounds(elastic, stretched) == _rounds(fixed, stiff) != []
    usage = elastic.usage[stretched.key, 0]
    assert usage.kv_tokens_pressed == usage.kv_tokens_evicted > 0


def test_a_waiting_request_is_admitted_in_the_step_that_presses_for_it() -> None:
    bench = Bench(blocks=16)
    bench.submit(elastic := make_request(8, new=100, cap=90, floor=16, reclaim=4))
    _until_full(bench)
    bench.steps(2)
    (held,) = _held(bench, elastic)
    bench.submit(newcomer := make_request(8, new=20, cap=20))
    plan = bench.step()
    (eviction,) = plan.evictions
    assert eviction.tokens == held
    assert eviction.keep == (16 - 5) * BLOCK - 1, "what is needed, and a slot for its next token"
    assert chunks_of([plan], newcomer)
    assert chunks_of([plan], elastic)
    bench.drain()
    assert bench.tokens[newcomer.key, 0] == tokens_alone(newcomer)


def test_at_least_its_reclaim_goes() -> None:
    bench = Bench(blocks=16)
    bench.submit(make_request(8, new=100, cap=90, floor=24, reclaim=12))
    _until_full(bench)
    bench.submit(make_request(2, new=2))
    (eviction,) = bench.step().evictions
    assert eviction.tokens - eviction.keep == 12


def test_the_longest_over_its_floor_is_pressed_first() -> None:
    bench = Bench(blocks=30)
    low = make_request(8, new=100, cap=100, floor=16)
    high = make_request(8, new=100, cap=100, floor=40)
    bench.submit(high)
    bench.steps(5)
    bench.submit(low)
    _until_full(bench)
    assert _held(bench, high) > _held(bench, low), "the longest is not the longest over its floor"
    bench.submit(make_request(8, new=20, cap=20))
    assert [e.sequence.request.key for e in bench.step().evictions] == [low.key]


def test_elastic_outputs_come_to_hold_equally_much_above_their_floors() -> None:
    bench = Bench(blocks=40)
    first = make_request(8, new=400, cap=140, floor=16)
    second = make_request(8, new=400, cap=140, floor=32)
    bench.submit(first)
    bench.steps(100)
    bench.submit(second)
    bench.steps(100)
    for _ in range(50):
        bench.step()
        one, other = _held(bench, first, second)
        assert abs((one - 16) - (other - 32)) <= 2 * BLOCK + 4
        assert one + other > 36 * BLOCK, "blocks are left lying"


def test_nobody_is_pressed_below_the_floor_less_the_reclaim() -> None:
    bench = Bench(blocks=20)
    requests = [make_request(6, new=90, cap=60, floor=18, reclaim=5) for _ in range(5)]
    bench.submit(*requests)
    bench.drain()
    keeps = [keep for request in requests for _, _, keep in _rounds(bench, request)]
    assert min(keeps) >= 13
    assert all(bench.usage[request.key, 0].preemptions == 0 for request in requests)
    for request in requests:
        assert bench.tokens[request.key, 0] == tokens_alone(request)


def test_who_grows_without_a_budget_presses_before_anybody_is_preempted() -> None:
    bench = Bench(blocks=24)
    elastic = make_request(8, new=100, cap=80, floor=16)
    growing = make_request(8, new=60)
    bench.submit(elastic, growing)
    bench.drain()
    assert bench.usage[elastic.key, 0].kv_tokens_pressed > 0
    assert bench.usage[growing.key, 0].preemptions == 0


def test_preemption_comes_when_nothing_is_left_to_press() -> None:
    bench = Bench(blocks=16)
    elastic = make_request(8, new=100, cap=60, floor=16)
    first, second = make_request(8, new=40), make_request(8, new=40)
    bench.submit(elastic, first, second)
    while not bench.scheduler.totals.preemptions:
        assert not bench.step().empty
    assert len(bench.blocks_of(elastic)) <= 4
    bench.drain()
    assert bench.usage[elastic.key, 0].preemptions == 0
    assert bench.tokens[second.key, 0] == tokens_alone(second)


def test_nobody_is_pressed_for_what_would_not_suffice() -> None:
    bench = Bench(blocks=16)
    fixed = make_request(8, new=40, cap=32)
    bench.submit(elastic := make_request(8, new=100, cap=90, floor=16), fixed)
    _until_full(bench)
    bench.submit(large := make_request(8, new=100, cap=60))
    before = bench.scheduler.totals.pressed
    while (fixed.key, 0) not in bench.reasons:
        bench.step()
        (held,) = _held(bench, elastic)
        assert held >= 7 * BLOCK, "pressed further than its own growth needs"
    assert bench.scheduler.totals.pressed > before, "it presses itself"
    bench.drain()
    assert first_step(bench.plans, large) > 40


def test_it_grows_again_when_blocks_are_free() -> None:
    bench = Bench(blocks=16)
    bench.submit(elastic := make_request(8, new=200, cap=80, floor=16))
    _until_full(bench)
    bench.submit(other := make_request(8, new=30, cap=40))
    bench.steps(20)
    assert _held(bench, elastic)[0] <= 24
    while (other.key, 0) not in bench.reasons:
        bench.step()
    bench.steps(40)
    assert _held(bench, elastic)[0] > 50


def test_fixed_neighbours_plan_as_if_nobody_were_elastic() -> None:
    def fixed_plans(floor: int | None) -> list[list[tuple[int, int, int]]]:
        bench = Bench(blocks=24)
        fixed = [make_request(8, new=60, cap=20 + i, key=1 + i, priority=1) for i in range(2)]
        bench.submit(*fixed, make_request(8, new=60, cap=40, floor=floor, key=3))
        bench.drain()
        rounds = [_rounds(bench, request) for request in fixed]
        assert rounds[0]
        return rounds

    assert fixed_plans(16) == fixed_plans(None)


def test_a_round_at_the_cap_goes_deeper_if_others_need_blocks_in_the_same_step() -> None:
    bench = Bench(blocks=16)
    bench.submit(elastic := make_request(8, new=100, cap=60, floor=17, reclaim=5))
    while _held_or_none(bench, elastic) != 60:
        bench.step()
    bench.submit(make_request(8, new=20, cap=20))
    (eviction,) = bench.step().evictions
    assert (eviction.tokens, eviction.keep) == (60, 43)
    usage = next(s for s in bench.scheduler.running if s.request is elastic).usage
    assert (usage.eviction_rounds, usage.kv_tokens_evicted) == (1, 17)
    assert usage.kv_tokens_pressed == 12, "the first five went at the cap"


def _held_or_none(bench: Bench, request: Request) -> int | None:
    running = [s for s in bench.scheduler.running if s.request is request]
    return running[0].kv_tokens if running else None


def test_a_reclaim_of_one_does_not_shield_from_pressure() -> None:
    """Every step is a round at the cap then; a newcomer would wait for ever."""
    bench = Bench(blocks=16)
    bench.submit(make_request(8, new=300, cap=60, floor=16, reclaim=1))
    bench.steps(80)
    bench.submit(newcomer := make_request(8, new=20, cap=20))
    assert chunks_of([bench.step()], newcomer)


def test_a_prompt_that_may_go_is_not_pressed_before_it_decodes() -> None:
    bench = Bench(blocks=16, max_batch_tokens=9)
    long = make_request(70, new=30, cap=60, floor=16, evict_prompt=True)
    bench.submit(long)
    bench.steps(6)
    assert _held(bench, long) == [54]
    bench.submit(newcomer := make_request(4, new=30, cap=40))
    bench.steps(2)
    assert not chunks_of(bench.plans, newcomer)
    assert [tokens for _, tokens, _ in _rounds(bench, long)] == [60]
    bench.drain()
    pressed = [e for plan in bench.plans for e in plan.evictions if e.tokens < 60]
    assert pressed
    assert all(e.position >= 70 for e in pressed if e.sequence.request is long)
    assert bench.tokens[long.key, 0] == tokens_alone(make_request([*long.prompt], new=30))


def test_two_long_prompts_that_may_go_share_a_pool_of_little_more_than_their_floors() -> None:
    bench = Bench(blocks=10, max_batch_tokens=64)
    requests = [
        make_request(90, new=10, cap=60, floor=16, evict_prompt=True, reclaim=3) for _ in range(2)
    ]
    bench.submit(*requests)
    bench.drain()
    for request in requests:
        chunks = chunks_of(bench.plans, request)
        assert max(chunk.kv_start + chunk.count for chunk in chunks) <= 60
        assert all(keep >= 13 for _, _, keep in _rounds(bench, request))


def test_a_floor_fits_where_a_cap_would_not() -> None:
    bench = Bench(blocks=6)
    bench.submit(request := make_request(8, new=100, cap=1000, floor=24))
    bench.drain()
    assert bench.usage[request.key, 0].kv_tokens_peak == 24
    assert bench.usage[request.key, 0].kv_blocks_peak == 6


def test_three_times_what_fits_runs_at_once_and_none_is_preempted() -> None:
    def steps(floor: int | None) -> int:
        bench = Bench(blocks=48)
        requests = [make_request(8, new=100, cap=96, floor=floor) for _ in range(6)]
        bench.submit(*requests)
        bench.drain()
        assert all(bench.tokens[r.key, 0] == tokens_alone(r) for r in requests)
        return len(bench.plans)

    assert steps(24) * 2 < steps(None)
