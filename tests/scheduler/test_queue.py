"""Waiting is by priority, then arrival; removal and deadlines cost nothing that grows."""

import random
from typing import Any

from scheduler.queue import DeadlineQueue
from scheduler.request import Sequence
from scheduler.waiting import WaitingQueue, WaitReason
from tests.builders import make_request


def _sequence(**fields: Any) -> Sequence:
    request = make_request(**fields)
    return Sequence(request, 0, list(request.prompt))


def _pop_all(queue: WaitingQueue) -> list[Sequence]:
    popped = []
    while (head := queue.head()) is not None:
        queue.remove(head)
        popped.append(head)
    return popped


def test_earlier_arrivals_come_first() -> None:
    late, early = _sequence(arrival=2.0), _sequence(arrival=1.0)
    queue = WaitingQueue()
    for sequence in (late, early):
        queue.push(sequence)
    assert _pop_all(queue) == [early, late]


def test_a_higher_priority_goes_ahead() -> None:
    early, urgent = _sequence(arrival=1.0), _sequence(arrival=2.0, priority=1)
    queue = WaitingQueue()
    for sequence in (early, urgent):
        queue.push(sequence)
    assert _pop_all(queue) == [urgent, early]


def test_requests_of_the_same_moment_keep_the_order_of_their_keys() -> None:
    sequences = [_sequence(arrival=1.0) for _ in range(5)]
    queue = WaitingQueue()
    for sequence in reversed(sequences):
        queue.push(sequence)
    assert _pop_all(queue) == sequences


def test_head_stays_until_removed() -> None:
    queue, sequence = WaitingQueue(), _sequence()
    queue.push(sequence)
    assert queue.head() is queue.head() is sequence
    assert len(queue) == 1


def test_what_was_removed_is_never_head() -> None:
    queue, sequences = WaitingQueue(), [_sequence() for _ in range(10)]
    for sequence in sequences:
        queue.push(sequence)
    for sequence in sequences[::2]:
        queue.remove(sequence)
        queue.remove(sequence)
    assert sequences[0] not in queue
    assert len(queue) == 5
    assert _pop_all(queue) == sequences[1::2]


def test_one_that_comes_back_is_there_once() -> None:
    queue, sequence, other = WaitingQueue(), _sequence(), _sequence()
    for _ in range(3):
        queue.push(sequence)
        queue.remove(sequence)
    queue.push(other)
    queue.push(sequence)
    assert _pop_all(queue) == [sequence, other]


def test_the_heap_does_not_grow_with_what_was_removed() -> None:
    queue, deadlines, stays = WaitingQueue(), DeadlineQueue(), _sequence(arrival=0.0)
    queue.push(stays)
    for key in range(10_000):
        sequence = _sequence()
        queue.push(sequence)
        queue.remove(sequence)
        deadlines.push(1.0, key)
        deadlines.discard(key)
    assert len(queue._lines[""]._heap) < 100
    assert len(deadlines._heap) < 100


def test_a_queue_agrees_with_a_sorted_list() -> None:
    rng, queue, model = random.Random(2), WaitingQueue(), list[Sequence]()
    for _ in range(3000):
        if rng.random() < 0.5:
            sequence = _sequence(arrival=rng.randrange(50), priority=rng.randrange(3))
            queue.push(sequence)
            model = sorted([*model, sequence], key=lambda s: s.order)
        elif model:
            gone = model.pop(rng.choice([0, rng.randrange(len(model))]))
            queue.remove(gone)
        assert queue.head() is (model[0] if model else None)
        assert len(queue) == len(model)


def test_a_deadline_passes_at_its_moment_and_once() -> None:
    queue = DeadlineQueue()
    queue.push(5.0, 1)
    queue.push(3.0, 2)
    assert queue.passed(2.9) == []
    assert queue.passed(3.0) == [2]
    assert queue.passed(9.0) == [1]
    assert queue.passed(9.0) == []


def test_a_discarded_deadline_does_not_pass() -> None:
    queue = DeadlineQueue()
    queue.push(5.0, 1)
    queue.discard(1)
    queue.discard(1)
    assert queue.passed(9.0) == []


def test_a_key_that_comes_back_has_only_its_new_deadline() -> None:
    queue = DeadlineQueue()
    queue.push(5.0, 1)
    queue.discard(1)
    queue.push(50.0, 1)
    assert queue.passed(9.0) == []
    assert queue.passed(50.0) == [1]


def test_what_holds_up_the_head_is_known() -> None:
    queue = WaitingQueue()
    queue.held_up(rows=False, room=False)
    assert queue.reason == WaitReason.NEXT_STEP  # nobody was there to be held up
    queue.push(_sequence())
    for rows, room, reason in (
        (False, True, WaitReason.MAX_RUNNING),
        (True, False, WaitReason.MAX_BATCH_TOKENS),
        (True, True, WaitReason.KV_BLOCKS),
    ):
        queue.held_up(rows=rows, room=room)
        assert queue.reason == reason
