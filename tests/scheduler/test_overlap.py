"""A step planned and launched before the last one is committed: same tokens, same books."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.plan import Chunk
from scheduler.request import FinishReason
from tests.builders import Bench, chunks_of, make_request, tokens_alone
from tests.scheduler.memory_runner import by_hand

END = 7


def by_ear(chunk: Chunk, last: int) -> int:
    """Depends on last token and position, and ends one answer in sixteen."""
    token = by_hand(chunk, last)
    return END if token % 16 == 0 else token


def _requests(rng: random.Random) -> list:
    requests = []
    for key in range(1, rng.randint(1, 8) + 1):
        prompt, new = rng.randint(1, 20), rng.randint(1, 24)
        cap = rng.choice([None, prompt + rng.randint(8, 20)])
        floor = rng.choice([None, prompt + 8]) if cap else None
        end_ids = frozenset({END})
        fields = {
            "key": key,
            "n": rng.choice([1, 1, 3]),
            "end_ids": end_ids,
            "unit": rng.choice([1, 1, 4]),
        }
        if cap is None:
            del fields["unit"]
        elif fields["unit"] == 4:
            cap, floor = cap + 8, floor and floor + 8
        requests.append(make_request(prompt, new, cap=cap, floor=floor, **fields))
    return requests


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.integers(14, 40), room=st.integers(0, 12))
def test_overlap_changes_no_token(seed: int, blocks: int, room: int) -> None:
    """Preemption, eviction, shared prompts and ends in flight: each output as without overlap."""
    rng = random.Random(seed)
    requests, rows = _requests(rng), rng.randint(1, 6)
    size = {"max_running": rows, "max_batch_tokens": rows + room, "max_waiting": 64}
    plain, overlapped = Bench(blocks, by_ear, **size), Bench(blocks, by_ear, True, **size)
    for request in requests:
        plain.submit(request)
        overlapped.submit(request)
        for _ in range(rng.randint(0, 3)):
            plain.step()
            overlapped.step()
    plain.drain()
    overlapped.drain()
    assert overlapped.tokens == plain.tokens
    assert overlapped.reasons == plain.reasons


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.integers(14, 40))
def test_what_ends_in_flight_leaves_nothing_behind(seed: int, blocks: int) -> None:
    rng = random.Random(seed)
    bench = Bench(blocks, by_ear, True, max_running=4, max_batch_tokens=12)
    for request in _requests(rng):
        bench.submit(request)
        for _ in range(rng.randint(0, 6)):
            end = rng.choice([bench.cancel, bench.stop, None, None, None])
            bench.step((lambda end=end, request=request: end(request)) if end else lambda: None)
    bench.drain()


def test_a_decode_runs_on_the_token_in_flight() -> None:
    bench, request = Bench(overlap=True), make_request(3, new=4)
    bench.submit(request)
    starts = [(c.start, c.count) for _ in range(3) for c in bench.step().chunks]
    assert starts == [(0, 3), (3, 1), (4, 1)]
    assert len(bench.tokens[request.key, 0]) == 2
    bench.drain()
    assert bench.tokens[request.key, 0] == tokens_alone(request)


def test_no_step_is_spent_beyond_the_last_token() -> None:
    bench, request = Bench(overlap=True), make_request(3, new=2)
    bench.submit(request)
    bench.drain()
    assert [c.start for c in chunks_of(bench.plans, request)] == [0, 3]
    assert bench.reasons == {(request.key, 0): FinishReason.LENGTH}


def test_an_end_costs_one_decode_that_counts_for_nothing() -> None:
    bench = Bench(draw=lambda *_: END, overlap=True)
    request = make_request(3, new=9, end_ids=frozenset({END}))
    bench.submit(request)
    bench.drain()
    bench.step()
    assert [c.start for c in chunks_of(bench.plans, request)] == [0, 3]
    assert bench.tokens[request.key, 0] == [END]
    assert bench.usage[request.key, 0].completion_tokens == 1


def test_logits_that_are_not_finite_end_the_request_one_step_late() -> None:
    bench = Bench(draw=lambda *_: None, overlap=True)
    request, other = make_request(3, new=9), make_request(3, new=9)
    bench.submit(request)
    bench.drain()
    assert bench.reasons == {(request.key, 0): FinishReason.ERROR}
    assert not bench.tokens[request.key, 0]
    assert other.key not in bench.reasons


@pytest.mark.parametrize("blocks", [7, 8, 9])
def test_the_token_of_a_preempted_output_is_not_lost(blocks: int) -> None:
    """Its draw is in flight when it loses its blocks: it is appended while it waits."""
    bench = Bench(blocks, overlap=True)
    requests = [make_request(5, new=14), make_request(5, new=14)]
    bench.submit(*requests)
    bench.drain()
    assert bench.scheduler.totals.preemptions > 0
    for request in requests:
        assert bench.tokens[request.key, 0] == tokens_alone(request)


def test_a_decode_comes_first_beside_an_output_that_only_waits_for_its_last_token() -> None:
    """Its last draw is in flight, so it is no decode of this plan, and must not pass for one."""
    bench = Bench(overlap=True, max_batch_tokens=8)
    last, decode = make_request(3, new=2), make_request(3, new=9, priority=-1)
    prefill = make_request(20, new=1, priority=1)
    bench.submit(last, decode)
    bench.step()
    bench.submit(prefill)
    plan = bench.steps(2)
    assert [(chunk.sequence.request.key, chunk.count) for chunk in plan.chunks] == [
        (decode.key, 1),
        (prefill.key, 7),
    ]
    bench.drain()
