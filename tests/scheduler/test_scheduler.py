"""Continuous batching: chunked prefill beside decodes, order, refusal, preemption."""

import pytest

from scheduler.errors import InvalidRequest, QueueFull
from scheduler.plan import Chunk
from scheduler.request import FinishReason
from scheduler.waiting import WaitReason
from tests.builders import Bench, chunks_of, first_step, make_request, make_scheduler, tokens_alone
from tests.scheduler.memory_runner import by_hand


def test_tokens_are_those_of_the_arithmetic() -> None:
    bench, request = Bench(), make_request([5, 6], new=3)
    bench.submit(request)
    bench.drain()
    first = (31 * 6 + 7 * 1 + 3) % 251
    second = (31 * first + 7 * 2 + 3) % 251
    third = (31 * second + 7 * 3 + 3) % 251
    assert bench.tokens[request.key, 0] == [first, second, third]
    assert bench.reasons[request.key, 0] is FinishReason.LENGTH


def test_a_long_prompt_is_computed_in_chunks_and_only_the_last_draws() -> None:
    bench, request = Bench(max_batch_tokens=16), make_request(40, new=2)
    bench.submit(request)
    bench.drain()
    shape = [(c.start, c.count, c.kv_start, c.samples) for c in chunks_of(bench.plans, request)]
    assert shape == [(0, 16, 0, False), (16, 16, 16, False), (32, 8, 32, True), (40, 1, 40, True)]


def test_decodes_come_first_and_prefill_fills_the_rest_of_the_step() -> None:
    bench = Bench(max_batch_tokens=16)
    bench.submit(make_request(4, new=9), make_request(4, new=9))
    bench.step()
    bench.submit(make_request(40))
    plan = bench.step()
    assert [chunk.count for chunk in plan.chunks] == [1, 1, 14]


def test_short_prompts_share_a_step() -> None:
    bench = Bench(max_batch_tokens=16)
    bench.submit(*[make_request(5) for _ in range(4)])
    assert [chunk.count for chunk in bench.step().chunks] == [1, 5, 5, 5]
    assert bench.plans[0].tokens == 16


def test_a_step_of_nothing_but_decodes_still_lets_a_prompt_through() -> None:
    bench = Bench(max_batch_tokens=8, max_running=8)
    bench.submit(*[make_request(1, new=50) for _ in range(7)])
    bench.step()
    bench.submit(late := make_request(6, new=1))
    bench.steps(6)
    assert bench.reasons == {(late.key, 0): FinishReason.LENGTH}


def test_a_prompt_half_computed_waits_when_better_ones_take_the_step() -> None:
    bench = Bench(max_batch_tokens=16)
    bench.submit(slow := make_request(50, cap=16, reclaim=6, evict_prompt=True))
    bench.step()
    bench.submit(urgent := make_request(60, priority=1))
    plans = [bench.step() for _ in range(3)]
    assert [chunk.count for chunk in chunks_of(plans, urgent)] == [10, 16, 16]
    assert [chunk.count for chunk in chunks_of(plans, slow)] == [6]
    bench.drain()


def test_an_idle_scheduler_plans_nothing() -> None:
    assert Bench().step().empty


def test_who_arrives_first_runs_first() -> None:
    bench = Bench(max_running=1)
    requests = [make_request(4, new=2) for _ in range(3)]
    bench.submit(*reversed(requests))
    bench.drain()
    assert list(bench.reasons) == [(request.key, 0) for request in requests]


def test_a_higher_priority_runs_first() -> None:
    bench = Bench(max_running=1)
    requests = [make_request(4, new=2, priority=priority) for priority in (0, 2, 1, -1)]
    bench.submit(*requests)
    bench.drain()
    assert list(bench.reasons) == [(requests[i].key, 0) for i in (1, 2, 0, 3)]


def test_nobody_overtakes_a_large_request_that_waits_for_room() -> None:
    bench = Bench(blocks=10)
    bench.submit(first := make_request(20, new=4, cap=24))
    bench.step()
    bench.submit(large := make_request(28, new=4, cap=32), small := make_request(4, new=1))
    bench.drain()
    assert next(iter(bench.reasons)) == (first.key, 0)
    assert chunks_of(bench.plans, large)[0].start == 0
    order = [c.sequence.request.key for plan in bench.plans for c in plan.chunks]
    assert order.index(large.key) < order.index(small.key)


def test_no_more_run_than_may() -> None:
    bench = Bench(max_running=3)
    bench.submit(*[make_request(2, new=4) for _ in range(5)])
    bench.step()
    assert (len(bench.running()), bench.scheduler.num_waiting) == (3, 2)
    bench.drain()


@pytest.mark.parametrize("cap", [None, 41])
def test_a_request_that_can_never_fit_is_refused_at_once(cap: int | None) -> None:
    scheduler = make_scheduler(blocks=10)
    with pytest.raises(
        InvalidRequest, match="hold 41 KV tokens, the whole pool holds 40"
    ) as caught:
        scheduler.submit(make_request(33, new=8 if cap is None else 100, cap=cap))
    assert caught.value.field == ("stopping.max_tokens" if cap is None else "kv_budget.max_tokens")
    assert scheduler.num_live == 0
    scheduler.check()


@pytest.mark.parametrize("cap", [None, 40])
def test_a_request_as_large_as_the_pool_runs(cap: int | None) -> None:
    bench = Bench(blocks=10)
    bench.submit(make_request(32, new=8 if cap is None else 100, cap=cap))
    bench.drain()


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    bench = Bench(max_waiting=4)
    bench.submit(make_request(4, n=3))
    with pytest.raises(QueueFull) as caught:
        bench.submit(make_request(4, n=2))
    assert caught.value.retry_seconds == 3.0
    assert "3 outputs wait already" in str(caught.value)
    bench.submit(make_request(4))
    bench.drain()


def test_more_outputs_than_may_ever_wait_are_refused_for_good() -> None:
    scheduler = make_scheduler(max_waiting=4)
    with pytest.raises(InvalidRequest, match="got 5; this server queues at most 4") as caught:
        scheduler.submit(make_request(4, n=5))
    assert caught.value.field == "sampling.n"


def test_a_key_is_live_only_once() -> None:
    bench, request = Bench(), make_request()
    bench.submit(request)
    with pytest.raises(ValueError, match="live already"):
        bench.submit(request)


def test_every_output_must_have_a_token_in_a_step() -> None:
    with pytest.raises(ValueError, match="raise it or lower max_running"):
        make_scheduler(max_running=32, max_batch_tokens=31)


def test_the_last_in_order_without_a_budget_is_preempted_first() -> None:
    bench = Bench(blocks=9)
    first, second, third = (make_request(8, new=16) for _ in range(3))
    bench.submit(first, second, third)
    bench.steps(6)
    assert bench.running() == [(first.key, 0), (second.key, 0)]
    assert bench.scheduler.num_waiting == 1
    bench.drain()
    preemptions = [bench.usage[r.key, 0].preemptions for r in (first, second, third)]
    assert preemptions[0] == 0
    assert preemptions[1] <= preemptions[2]
    assert preemptions[2] > 0


def test_who_was_preempted_draws_the_same_tokens_as_alone() -> None:
    bench = Bench(blocks=9)
    requests = [make_request(8, new=16, priority=-i) for i in range(4)]
    bench.submit(*requests)
    bench.drain()
    assert bench.scheduler.totals.preemptions >= 3
    for request in requests:
        assert bench.tokens[request.key, 0] == tokens_alone(request)


def test_who_was_preempted_comes_back_before_later_arrivals() -> None:
    bench = Bench(blocks=8)
    first, second = make_request(8, new=20), make_request(8, new=20)
    bench.submit(first, second)
    while bench.scheduler.totals.preemptions == 0:
        bench.step()
    before = len(bench.plans)
    bench.submit(late := make_request(1, new=1))
    bench.drain()
    assert first_step(bench.plans[before:], second) <= first_step(bench.plans[before:], late)


def test_a_newcomer_does_not_push_out_those_who_run() -> None:
    bench = Bench(blocks=6)
    bench.submit(first := make_request(12, new=10))
    bench.step()
    bench.submit(make_request(12, new=4))
    bench.steps(2)
    assert bench.running() == [(first.key, 0)], "3 blocks are left, 3 and a spare one are needed"
    bench.drain()
    assert bench.scheduler.totals.preemptions == 0


def test_logits_that_are_not_finite_end_that_request_and_no_other() -> None:
    poisoned = make_request(4, new=5, n=2)
    healthy = make_request(4, new=5)

    def draw(chunk: Chunk, last: int) -> int | None:
        bad = chunk.sequence.request is poisoned and chunk.sequence.generated == 2
        return None if bad and chunk.sequence.output == 1 else by_hand(chunk, last)

    bench = Bench(draw=draw)
    bench.submit(poisoned, healthy)
    bench.drain()
    assert bench.reasons == {
        (poisoned.key, 0): FinishReason.ERROR,
        (poisoned.key, 1): FinishReason.ERROR,
        (healthy.key, 0): FinishReason.LENGTH,
    }
    assert bench.tokens[healthy.key, 0] == tokens_alone(healthy)


def test_counts_of_live_outputs_follow_the_books() -> None:
    bench = Bench(max_running=2)
    bench.submit(make_request(9, n=3, new=2), make_request(4, new=2))
    assert (bench.scheduler.num_live, bench.scheduler.num_waiting) == (4, 4)
    bench.step()
    assert (bench.scheduler.num_live, bench.scheduler.num_waiting) == (4, 2)
    bench.drain()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"blocks": 8, "max_batch_tokens": 64}, WaitReason.KV_BLOCKS),
        ({"max_running": 1, "max_batch_tokens": 64}, WaitReason.MAX_RUNNING),
        ({"max_batch_tokens": 20}, WaitReason.MAX_BATCH_TOKENS),
    ],
)
def test_what_outputs_wait_for_is_known(settings: dict[str, int], reason: WaitReason) -> None:
    bench = Bench(**settings)
    bench.submit(make_request(20, 8), make_request(20, 8))
    bench.step()
    assert bench.scheduler.num_waiting == 1
    assert bench.scheduler.waiting.reason == reason


def test_the_tokens_of_chunks_are_those_that_are_no_decodes() -> None:
    bench = Bench(max_batch_tokens=24)
    for _ in range(4):
        bench.submit(make_request(19, 20))
        bench.steps(2)
    bench.drain()
    mixed = 0
    for plan in bench.plans:
        chunks = sum(chunk.count for chunk in plan.chunks if chunk.count > 1)
        assert plan.prefill_tokens == chunks
        mixed += 0 < chunks < plan.tokens
    assert mixed
