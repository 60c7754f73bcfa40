"""Every way to end, in every state: everything comes back at once, and usage says what was."""

from collections.abc import Callable

import pytest

from scheduler.plan import Chunk
from scheduler.request import FinishReason, Request
from tests.builders import Bench, check_nothing_is_left, make_request

Prepare = Callable[[], tuple[Bench, Request, int]]  # bench, request, output in that state


def _waiting() -> tuple[Bench, Request, int]:
    bench = Bench(max_running=1)
    bench.submit(first := make_request(4, new=50), request := make_request(20))
    bench.step()
    assert bench.running() == [(first.key, 0)]
    return bench, request, 0


def _prefilling() -> tuple[Bench, Request, int]:
    bench, request = Bench(max_batch_tokens=8), make_request(20)
    bench.submit(request)
    bench.step()
    return bench, request, 0


def _decoding() -> tuple[Bench, Request, int]:
    bench, request = Bench(), make_request(20)
    bench.submit(request)
    bench.steps(4)
    return bench, request, 0


def _compacted() -> tuple[Bench, Request, int]:
    bench, request = Bench(), make_request(8, new=50, cap=20)
    bench.submit(request)
    bench.steps(20)
    return bench, request, 0


def _preempted() -> tuple[Bench, Request, int]:
    bench = Bench(blocks=9)
    bench.submit(make_request(8, new=20), request := make_request(8, new=20))
    while bench.scheduler.totals.preemptions == 0:
        bench.step()
    return bench, request, 0


def _following() -> tuple[Bench, Request, int]:
    bench, request = Bench(max_batch_tokens=8), make_request(20, n=3)
    bench.submit(request)
    bench.step()
    return bench, request, 2


def _leading() -> tuple[Bench, Request, int]:
    bench, request, _ = _following()
    return bench, request, 0


STATES = [_waiting, _prefilling, _decoding, _compacted, _preempted, _following, _leading]


def _id(prepare: Prepare) -> str:
    return prepare.__name__.strip("_")


@pytest.mark.parametrize("prepare", STATES, ids=_id)
def test_cancel_gives_everything_back_at_once(prepare: Prepare) -> None:
    bench, request, _ = prepare()
    assert bench.cancel(request)
    assert all(
        bench.reasons[request.key, output] is FinishReason.CANCELLED for output in range(request.n)
    )
    assert all(key != request.key for key, _ in bench.running())
    for other in {s.request.key: s.request for s in bench.scheduler.running}.values():
        bench.cancel(other)
    check_nothing_is_left(bench.scheduler)


@pytest.mark.parametrize("prepare", STATES, ids=_id)
def test_stop_ends_one_output_and_the_rest_go_on(prepare: Prepare) -> None:
    bench, request, output = prepare()
    assert bench.stop(request, output)
    assert bench.reasons == {(request.key, output): FinishReason.STOP}
    bench.drain()
    ends = [bench.reasons[request.key, i] for i in range(request.n) if i != output]
    assert ends == [FinishReason.LENGTH] * (request.n - 1)


@pytest.mark.parametrize("prepare", STATES, ids=_id)
def test_the_second_cancel_finds_nothing(prepare: Prepare) -> None:
    bench, request, output = prepare()
    assert bench.cancel(request)
    assert not bench.cancel(request)
    assert not bench.stop(request, output)
    bench.drain()


@pytest.mark.parametrize("prepare", STATES, ids=_id)
def test_a_deadline_ends_every_output_in_the_next_plan(prepare: Prepare) -> None:
    bench, request, _ = prepare()
    bench.scheduler._deadlines.push(bench.now + 0.5, request.key)
    bench.step()
    assert (request.key, 0) not in bench.reasons
    bench.scheduler.plan(bench.now)
    bench.collect()
    ends = [bench.reasons[request.key, output] for output in range(request.n)]
    assert ends == [FinishReason.DEADLINE] * request.n


def test_unknown_ids_are_ignored() -> None:
    bench, request = Bench(), make_request(4, new=3)
    assert not bench.cancel(request)
    assert not bench.stop(request)
    bench.submit(request)
    assert not bench.stop(request, output=1)
    bench.drain()
    assert not bench.stop(request), "it ended before the front saw the stop string"
    assert not bench.cancel(request)


@pytest.mark.parametrize("end", ["cancel", "stop"])
def test_what_a_step_drew_for_one_that_ended_meanwhile_is_dropped(end: str) -> None:
    bench, gone, stays = Bench(), make_request(4, new=9), make_request(4, new=9)
    bench.submit(gone, stays)
    bench.steps(2)
    bench.step(meanwhile=lambda: getattr(bench, end)(gone))
    assert len(bench.tokens[gone.key, 0]) == 2
    assert len(bench.tokens[stays.key, 0]) == 3
    bench.drain()


def test_a_prompt_whose_step_was_not_committed_is_not_published() -> None:
    bench, gone = Bench(), make_request(list(range(12)))
    bench.submit(gone)
    bench.step(meanwhile=lambda: bench.cancel(gone))
    assert bench.scheduler.kv.pool.idle == 0
    bench.drain()


def test_an_end_token_stops_and_is_delivered() -> None:
    def draw(chunk: Chunk, last: int) -> int:
        return 77 if chunk.sequence.generated == 2 else 5

    bench, request = Bench(draw=draw), make_request(4, new=9, end_ids=frozenset({77, 78}))
    bench.submit(request)
    bench.drain()
    assert bench.tokens[request.key, 0] == [5, 5, 77]
    assert bench.reasons[request.key, 0] is FinishReason.STOP


def test_an_end_token_in_the_last_place_is_still_a_stop() -> None:
    bench, request = Bench(draw=lambda *_: 77), make_request(4, new=1, end_ids=frozenset({77}))
    bench.submit(request)
    bench.drain()
    assert bench.reasons[request.key, 0] is FinishReason.STOP


def test_a_deadline_in_the_past_ends_a_request_before_it_runs() -> None:
    bench, request = Bench(), make_request(4, deadline=0.0)
    bench.submit(request)
    assert bench.step().empty
    assert bench.reasons[request.key, 0] is FinishReason.DEADLINE


def test_an_output_that_ends_in_time_meets_no_deadline() -> None:
    bench, request = Bench(), make_request(4, new=2, deadline=2.5)
    bench.submit(request)
    bench.steps(5)
    assert bench.reasons[request.key, 0] is FinishReason.LENGTH


def test_what_ended_is_told_once() -> None:
    bench, request = Bench(), make_request(4)
    bench.submit(request)
    bench.scheduler.cancel(request.key)
    assert [reason for _, reason in bench.scheduler.take_finished()] == [FinishReason.CANCELLED]
    assert bench.scheduler.take_finished() == []


def test_usage_tells_how_long_each_part_took() -> None:
    bench = Bench(max_running=1, max_batch_tokens=8)
    bench.submit(make_request(4, new=3, arrival=0.0))
    bench.submit(request := make_request(20, new=4, arrival=0.0))
    bench.drain()
    usage = bench.usage[request.key, 0]
    assert usage.queue_seconds == 3.0, "three steps of the first"
    assert usage.prefill_seconds == 3.0, "chunks of 8, 8 and 4"
    assert usage.decode_seconds == 3.0, "three tokens after the first"
    assert (usage.prompt_tokens, usage.completion_tokens) == (20, 4)
    assert (usage.kv_tokens_peak, usage.kv_tokens_final, usage.kv_blocks_peak) == (23, 23, 6)
    assert (usage.kv_tokens_evicted, usage.eviction_rounds, usage.preemptions) == (0, 0, 0)


def test_who_never_ran_waited_all_the_time() -> None:
    bench = Bench(max_running=1)
    bench.submit(make_request(4, new=50, arrival=0.0))
    bench.submit(late := make_request(4, arrival=2.0, deadline=9.0))
    bench.steps(11)
    assert bench.reasons[late.key, 0] is FinishReason.DEADLINE
    assert bench.usage[late.key, 0].queue_seconds == 7.0


def test_totals_count_tokens_once() -> None:
    bench = Bench(blocks=9)
    bench.submit(*[make_request(8, new=16) for _ in range(3)])
    bench.drain()
    totals = bench.scheduler.totals
    assert totals.preemptions > 0
    assert (totals.prompt_tokens, totals.generation_tokens) == (24, 48)
