"""Policies that evict whole blocks: the table shrinks in the middle, and nothing is moved."""

import pytest

from scheduler.request import Request, Sequence
from tests.builders import BLOCK, Bench, chunks_of, make_request, tokens_alone


def test_a_round_takes_blocks_out_of_the_table_and_moves_nothing() -> None:
    bench = Bench()
    bench.submit(request := make_request(8, new=40, cap=24, recent=3, reclaim=8, unit=BLOCK))
    while len(bench.blocks_of(request) if bench.plans else []) < 6:
        bench.step()
    while not bench.runner.dropped:
        before = bench.blocks_of(request)
        plan = bench.step()
    after = bench.blocks_of(request)
    gone = [block for block in before if block not in after[:-1]]
    assert len(gone) == 2
    assert not set(gone) & {*before[:2], before[-1]}, "pinned and newest blocks stay"
    assert after[:-1] == [block for block in before if block not in gone]
    assert plan.evictions == []
    assert chunks_of([plan], request)[0].kv_start == 16
    bench.drain()
    assert bench.tokens[request.key, 0] == tokens_alone(request)


def test_rounds_and_tokens_are_counted_as_any() -> None:
    bench = Bench()
    bench.submit(request := make_request(8, new=60, cap=22, recent=3, reclaim=3, unit=BLOCK))
    bench.drain()
    usage, totals = bench.usage[request.key, 0], bench.scheduler.totals
    assert (usage.eviction_rounds, usage.kv_tokens_evicted) == (12, 48)
    assert usage.kv_tokens_peak == 22
    assert (totals.rounds, totals.evicted) == ({"window": 12}, {"window": 48})


def test_the_smallest_budget_frees_its_block_every_time() -> None:
    """Prompt 5 pins two blocks, three recent entries may spoil another, one block goes."""
    bench = Bench()
    bench.submit(request := make_request(5, new=60, cap=15, recent=3, reclaim=1, unit=BLOCK))
    bench.drain()
    assert bench.usage[request.key, 0].kv_tokens_evicted > 40
    assert bench.tokens[request.key, 0] == tokens_alone(request)


def test_a_prompt_that_may_go_goes_in_whole_blocks_too() -> None:
    bench = Bench(max_batch_tokens=64)
    long = make_request(50, new=20, cap=21, reclaim=6, evict_prompt=True, unit=BLOCK)
    bench.submit(long)
    bench.drain()
    assert [chunk.count for chunk in chunks_of(bench.plans, long)[:4]] == [21, 8, 8, 8]
    assert bench.tokens[long.key, 0] == tokens_alone(make_request([*long.prompt], new=20))


def _pressed(unit: int, wait: int) -> tuple[Bench, Request]:
    """An elastic request, just pressed for a newcomer."""
    bench = Bench(blocks=16)
    bench.submit(elastic := make_request(8, new=100, cap=90, floor=24, unit=unit, reclaim=4))
    while bench.scheduler.kv.spare:
        bench.step()
    bench.steps(wait)
    bench.submit(newcomer := make_request(8, new=20, cap=20))
    assert chunks_of([bench.step()], newcomer)
    return bench, elastic


@pytest.mark.parametrize("wait", [1, 2, 3])
def test_pressing_takes_whole_blocks(wait: int) -> None:
    bench, elastic = _pressed(BLOCK, wait)
    moving, other = _pressed(1, wait)
    sequence, like = (
        next(s for s in b.scheduler.running if s.request is r)
        for b, r in ((bench, elastic), (moving, other))
    )
    gone = sequence.usage.kv_tokens_pressed
    assert gone % BLOCK == 0
    assert 0 <= gone - like.usage.kv_tokens_pressed < BLOCK
    assert len(sequence.blocks) == len(like.blocks) == 11
    bench.drain()
    assert bench.tokens[elastic.key, 0] == tokens_alone(elastic)


def test_no_more_than_is_needed_is_offered_for_choice() -> None:
    seen: list[tuple[list[int], int]] = []
    bench = Bench()
    choose = bench.runner.choose_blocks

    def spy(sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        seen.append(([sequence.blocks.index(block) for block in candidates], count))
        return choose(sequence, candidates, count)

    bench.scheduler._choose_blocks = spy
    bench.submit(make_request(9, new=16, cap=22, recent=3, reclaim=3, unit=BLOCK))
    bench.drain()
    assert seen == [([3], 1)]  # 9 pinned: three blocks; of 22 entries 3 are recent: four are old
