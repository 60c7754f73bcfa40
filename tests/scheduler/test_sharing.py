"""Prompt blocks are shared: by the outputs of a request, and through the salted prefix cache."""

import pytest

from scheduler.request import FinishReason
from tests.builders import Bench, chunks_of, first_step, make_request, tokens_alone

PROMPT = list(range(100, 118))  # four full blocks and a half


def test_the_outputs_of_a_request_share_the_full_blocks_of_its_prompt() -> None:
    bench, request = Bench(), make_request(PROMPT, n=3)
    bench.submit(request)
    bench.steps(4)
    tables = [bench.blocks_of(request, output) for output in range(3)]
    assert tables[0][:4] == tables[1][:4] == tables[2][:4]
    assert len({table[4] for table in tables}) == 3
    assert bench.scheduler.kv.pool.held == 4 + 3
    bench.drain()
    assert [bench.usage[request.key, i].cached_prompt_tokens for i in range(3)] == [0, 16, 16]
    assert all(bench.tokens[request.key, i] == tokens_alone(request) for i in range(3))


def test_followers_wait_until_their_leader_has_computed_the_prompt() -> None:
    bench, request = Bench(max_batch_tokens=8), make_request(PROMPT, n=3)
    bench.submit(request)
    bench.drain()
    assert first_step(bench.plans, request, 0) == 0
    assert first_step(bench.plans, request, 1) == first_step(bench.plans, request, 2) == 3
    assert chunks_of(bench.plans, request, 1)[0].start == 16


def test_followers_come_too_when_the_last_chunk_of_the_prompt_is_one_token() -> None:
    bench, request = Bench(max_batch_tokens=16), make_request(17, n=2)
    bench.submit(request)
    bench.drain()
    assert first_step(bench.plans, request, 1) == 2


def test_a_prompt_without_a_full_block_to_share_leads_nobody() -> None:
    bench, request = Bench(), make_request(4, n=3)
    bench.submit(request)
    assert [chunk.count for chunk in bench.step().chunks] == [4, 4, 4]


@pytest.mark.parametrize(("steps", "batch"), [(0, 64), (0, 8), (1, 8)])
def test_when_the_leader_is_stopped_early_the_next_one_leads(steps: int, batch: int) -> None:
    bench, request = Bench(max_batch_tokens=batch), make_request(PROMPT, n=4)
    bench.submit(request)
    for _ in range(steps):
        bench.step()
    assert bench.stop(request, output=0)
    bench.drain()
    cached = [bench.usage[request.key, i].cached_prompt_tokens for i in range(4)]
    assert cached == [0, 8 * steps, 16, 16]
    assert all(bench.tokens[request.key, i] == tokens_alone(request) for i in (1, 2, 3))


@pytest.mark.parametrize(("steps", "batch"), [(0, 64), (0, 8), (1, 8)])
def test_when_a_follower_is_stopped_the_others_still_wait_and_share(steps: int, batch: int) -> None:
    bench, request = Bench(max_batch_tokens=batch), make_request(PROMPT, n=4)
    bench.submit(request)
    for _ in range(steps):
        bench.step()
    assert bench.stop(request, output=2)
    bench.drain()
    cached = [bench.usage[request.key, i].cached_prompt_tokens for i in range(4)]
    assert cached == [0, 16, 0, 16]


def test_when_a_leader_is_cancelled_its_followers_end_too() -> None:
    bench, request = Bench(max_batch_tokens=8), make_request(PROMPT, n=3)
    bench.submit(request)
    bench.step()
    assert bench.cancel(request)
    assert bench.reasons == {(request.key, i): FinishReason.CANCELLED for i in range(3)}
    bench.drain()


def test_a_leader_that_is_preempted_still_leads() -> None:
    bench = Bench(blocks=11, max_batch_tokens=3, max_running=3)
    bench.submit(first := make_request(16, new=24))
    bench.steps(6)
    bench.submit(request := make_request(PROMPT, n=2, new=2))
    while bench.scheduler.totals.preemptions == 0:
        bench.step()
    assert bench.tokens[request.key, 0] == [], "it was preempted before its prompt was computed"
    bench.drain()
    assert bench.usage[request.key, 1].cached_prompt_tokens == 16
    assert bench.tokens[request.key, 1] == tokens_alone(request)
    assert bench.usage[first.key, 0].preemptions == 0


def test_a_later_request_finds_the_prompt_of_an_earlier_one() -> None:
    bench, first, second = Bench(), make_request(PROMPT), make_request([*PROMPT, 7, 8])
    bench.submit(first)
    bench.drain()
    bench.submit(second)
    bench.drain()
    assert chunks_of(bench.plans, second)[0].start == 16
    assert bench.usage[first.key, 0].cached_prompt_tokens == 0
    assert bench.usage[second.key, 0].cached_prompt_tokens == 16
    assert bench.scheduler.totals.cached_prompt_tokens == 16
    assert bench.tokens[second.key, 0] == tokens_alone(second)


def test_prompts_share_as_far_as_they_agree() -> None:
    bench, first = Bench(), make_request(PROMPT)
    bench.submit(first)
    bench.drain()
    bench.submit(second := make_request([*PROMPT[:9], 0, *PROMPT[10:]]))
    bench.drain()
    assert bench.usage[second.key, 0].cached_prompt_tokens == 8


def test_nothing_is_shared_across_salts() -> None:
    bench, first = Bench(), make_request(PROMPT, salt="a")
    bench.submit(first)
    bench.drain()
    theirs, ours = make_request(PROMPT, salt="b"), make_request(PROMPT, salt="a")
    bench.submit(theirs, ours)
    bench.drain()
    assert bench.usage[theirs.key, 0].cached_prompt_tokens == 0
    assert bench.usage[ours.key, 0].cached_prompt_tokens == 16


def test_a_prompt_that_may_be_evicted_neither_takes_nor_gives() -> None:
    bench, first = Bench(), make_request(PROMPT)
    bench.submit(first)
    bench.drain()
    private = make_request(PROMPT, new=20, n=2, cap=16, evict_prompt=True)
    bench.submit(private)
    bench.drain()
    assert bench.usage[private.key, 0].cached_prompt_tokens == 0
    assert bench.usage[private.key, 1].cached_prompt_tokens == 0
    bench = Bench()
    bench.submit(private)
    bench.drain()
    assert bench.scheduler.kv.pool.idle == 0


def test_budgeted_requests_share_a_pinned_prompt_and_evict_beside_it() -> None:
    bench = Bench()
    request = make_request(PROMPT, new=60, n=3, cap=32)
    bench.submit(request)
    bench.steps(40)
    tables = [bench.blocks_of(request, output) for output in range(3)]
    assert tables[0][:4] == tables[1][:4] == tables[2][:4]
    assert len(set(tables[0][4:] + tables[1][4:] + tables[2][4:])) == sum(
        len(t) - 4 for t in tables
    )
    bench.submit(again := make_request(PROMPT, new=60, cap=32))
    bench.drain()
    assert bench.usage[again.key, 0].cached_prompt_tokens == 16
    assert bench.usage[again.key, 0].eviction_rounds > 5


def test_without_the_prefix_cache_outputs_share_and_requests_do_not() -> None:
    bench = Bench(prefix_cache=False)
    first, second = make_request(PROMPT, n=2), make_request(PROMPT, n=2)
    bench.submit(first)
    bench.drain()
    bench.submit(second)
    bench.drain()
    for request in (first, second):
        assert bench.usage[request.key, 0].cached_prompt_tokens == 0
        assert bench.usage[request.key, 1].cached_prompt_tokens == 16


def test_cached_prefixes_give_way_to_live_requests() -> None:
    bench = Bench(blocks=10)
    bench.submit(first := make_request(PROMPT, new=2))
    bench.drain()
    assert bench.scheduler.kv.pool.idle == 4
    bench.submit(large := make_request(34, new=6))
    bench.drain()
    bench.submit(again := make_request(PROMPT, new=2))
    bench.drain()
    assert bench.usage[again.key, 0].cached_prompt_tokens == 0
    assert bench.tokens[again.key, 0] == bench.tokens[first.key, 0]
    assert bench.usage[large.key, 0].preemptions == 0


def test_who_is_preempted_finds_its_own_prompt_but_none_of_it_counts_as_cached() -> None:
    bench = Bench(blocks=9)
    first, second = make_request(8, new=20), make_request(8, new=20)
    bench.submit(first, second)
    bench.drain()
    usage = bench.usage[second.key, 0]
    assert usage.preemptions > 0
    assert max(chunk.start for chunk in chunks_of(bench.plans, second) if chunk.count > 1) == 8
    assert usage.cached_prompt_tokens == 0
    assert bench.scheduler.totals.cached_prompt_tokens == 0
