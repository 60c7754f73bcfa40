"""The engine loop over a real pipe: what goes in, what comes out, and how it ends."""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from engine.config import EngineConfig
from engine.fake import FakeRunner, FakeStep, next_token
from engine.loop import EngineLoop
from engine.messages import (
    Cancel,
    Refusal,
    Shutdown,
    Stop,
    Submit,
    WaitReason,
)
from scheduler.budget import BudgetRequest
from scheduler.config import SchedulerConfig
from scheduler.plan import StepPlan
from scheduler.request import FinishReason, Sampling
from tests.builders import PATIENCE, Front

SMALL = SchedulerConfig(block_size=4, max_running=4, max_batch_tokens=16, max_waiting=6)


class GatedRunner(FakeRunner):
    """Runs as many steps as its gate lets through."""

    def __init__(self, config: EngineConfig, gate: threading.Semaphore) -> None:
        super().__init__(config)
        self._gate = gate

    def launch(self, plan: StepPlan) -> FakeStep:
        assert self._gate.acquire(timeout=PATIENCE)
        return super().launch(plan)


Open = Callable[..., Front]


@pytest.fixture
def open_front() -> Iterator[Open]:
    """Starts loops on fake runners; their threads end with the test."""
    fronts = []

    def start(gate: threading.Semaphore | None = None, **settings: object) -> Front:
        ours, theirs = multiprocessing.Pipe()
        config = EngineConfig(scheduler=SMALL, **settings)  # type: ignore[arg-type]
        runner = FakeRunner(config) if gate is None else GatedRunner(config, gate)
        loop = EngineLoop(runner, config.scheduler, theirs)
        thread = threading.Thread(target=loop.run, daemon=True)
        thread.start()
        fronts.append((Front(ours, thread), theirs))
        return fronts[-1][0]

    yield start
    for front, theirs in fronts:
        front.connection.close()
        assert front.ends()
        theirs.close()


def _submit(key: int, new: int | None = 3, prompt: int = 6, **fields: object) -> Submit:
    return Submit(key, [5] * prompt, Sampling(), max_new_tokens=new, **fields)  # type: ignore[arg-type]


def _arithmetic(prompt: int, new: int) -> list[int]:
    tokens = [5] * prompt
    for position in range(prompt - 1, prompt + new - 1):
        tokens.append(next_token(tokens[-1], position))
    return tokens[prompt:]


def test_the_model_is_described_before_anything_else(open_front: Open) -> None:
    front = open_front(kv_blocks=32)
    assert (front.model.total_blocks, front.model.block_size) == (32, 4)
    assert (front.model.max_running, front.model.max_waiting) == (4, 6)


def test_a_request_is_accepted_then_delivered_then_finished(open_front: Open) -> None:
    front = open_front()
    front.send(_submit(1, new=4))
    front.until_finished()
    (accepted,) = front.steps[0].accepted
    assert (accepted.key, accepted.prompt_tokens, accepted.max_tokens) == (1, 6, 4)
    assert (accepted.kv_budget, accepted.policy, accepted.blocks_promised) == (0, "", 0)
    assert [len(step.deltas) for step in front.steps] == [1, 1, 1, 1]
    assert front.tokens(1) == _arithmetic(6, 4)
    (finished,) = front.steps[-1].finished
    assert (finished.key, finished.output, finished.reason) == (1, 0, FinishReason.LENGTH)
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (6, 4)


def test_accepted_tells_the_budget_in_force(open_front: Open) -> None:
    front = open_front()
    front.send(_submit(1, new=50, budget=BudgetRequest(max_tokens=40, policy="window")))
    (accepted,) = front.step().accepted
    assert (accepted.kv_budget, accepted.policy, accepted.blocks_promised) == (40, "window", 10)
    assert (accepted.recent_tokens, accepted.sink_tokens, accepted.reclaim_tokens) == (8, 6, 16)
    assert accepted.min_tokens == 40
    (finished,) = front.until_finished()
    assert finished.usage.kv_tokens_peak == 40
    assert finished.usage.eviction_rounds == 1
    load = front.steps[-1].load
    assert (load.tokens_evicted_total, load.eviction_rounds_total) == (
        {"window": 16},
        {"window": 1},
    )


def test_pressure_on_an_elastic_budget_is_told(open_front: Open) -> None:
    gate = threading.Semaphore(0)
    front = open_front(gate, kv_blocks=16)
    elastic = BudgetRequest(max_tokens=56, min_tokens=32, policy="window")
    fixed = BudgetRequest(max_tokens=24, recent_tokens=2)
    front.send(_submit(1, new=60, budget=elastic), _submit(2, new=60, budget=fixed, salt="own"))
    gate.release(1000)
    finished = {f.key: f for f in front.until_finished(2)}
    (accepted, _) = (accepted for step in front.steps for accepted in step.accepted)
    assert (accepted.kv_budget, accepted.min_tokens, accepted.blocks_promised) == (56, 32, 8)
    usage, load = finished[1].usage, front.steps[-1].load
    assert load.tokens_pressed_total == usage.kv_tokens_pressed == usage.kv_tokens_evicted > 0
    assert usage.kv_tokens_peak == 40, "two blocks are spare"
    assert max(step.load.tokens_elastic for step in front.steps) == 8
    assert load.tokens_elastic == 0
    assert front.tokens(1) == _arithmetic(6, 60)


def test_what_is_wrong_with_a_request_is_told_by_field(open_front: Open) -> None:
    front = open_front()
    front.send(_submit(1, prompt=0))
    (refused,) = front.step().refused
    assert (refused.key, refused.reason, refused.field) == (1, Refusal.INVALID, "input")
    front.send(_submit(2, new=10**6))
    (refused,) = front.step().refused
    assert (refused.key, refused.field) == (2, "stopping.max_tokens")


def test_a_full_queue_refuses_with_a_time_to_wait(open_front: Open) -> None:
    front = open_front(fake_step_seconds=0.2)
    front.send(_submit(1, new=50, n=4))
    front.until(lambda step: step.load.running == 4)
    front.send(_submit(2, n=4), _submit(3, n=4))
    (refused,) = front.until(lambda step: step.refused).refused
    assert [accepted.key for step in front.steps for accepted in step.accepted] == [1, 2]
    assert (refused.key, refused.reason, refused.field) == (3, Refusal.QUEUE_FULL, "")
    assert refused.retry_seconds >= 1.0
    front.send(Cancel(1))
    front.until_finished(8)


def test_all_outputs_of_a_request_are_delivered(open_front: Open) -> None:
    front = open_front()
    front.send(_submit(1, new=5, n=3))
    front.until_finished(3)
    assert [front.tokens(1, output) for output in range(3)] == [_arithmetic(6, 5)] * 3


def test_nothing_comes_while_nothing_lives(open_front: Open) -> None:
    front = open_front()
    front.send(_submit(1))
    front.until_finished()
    assert not front.connection.poll(0.1)
    front.send(_submit(2))
    assert front.until_finished(2)[-1].key == 2


def test_cancel_frees_all_blocks_within_two_steps(open_front: Open) -> None:
    gate = threading.Semaphore(3)
    front = open_front(gate=gate)
    front.send(_submit(1, new=5000, prompt=40, n=2))
    for _ in range(3):  # chunks of 16, 16 and 8
        assert front.step().load.blocks_used > 0
    front.send(Cancel(1))
    gate.release(2)
    if not front.step().finished:  # planned before Cancel came
        front.step()
    assert [finished.reason for finished in front.finished] == [FinishReason.CANCELLED] * 2
    load = front.steps[-1].load
    assert (load.blocks_used, load.running, load.waiting, load.blocks_promised) == (0, 0, 0, 0)


def test_stop_ends_one_output_and_the_other_goes_on(open_front: Open) -> None:
    front = open_front(fake_step_seconds=0.01)
    front.send(_submit(1, new=40, n=2))
    front.until(lambda step: len(step.deltas) == 2)
    front.send(Stop(1, 0))
    first, second = front.until_finished(2)
    assert (first.output, first.reason) == (0, FinishReason.STOP)
    assert (second.output, second.reason) == (1, FinishReason.LENGTH)
    assert first.usage.completion_tokens == len(front.tokens(1, 0)) < 40
    assert front.tokens(1, 1) == _arithmetic(6, 40)


def test_late_and_unknown_events_are_counted_and_ignored(open_front: Open) -> None:
    front = open_front()
    front.send(_submit(1))
    front.until_finished()
    assert front.steps[-1].load.ignored_events_total == 0
    front.send(Cancel(1), Cancel(1), Stop(1, 0), Cancel(99), Stop(99, 3))
    front.until(lambda step: step.load.ignored_events_total == 5)
    front.send(_submit(2))
    assert front.until_finished(2)[-1].reason is FinishReason.LENGTH
    assert front.steps[-1].load.ignored_events_total == 5


def test_a_deadline_ends_a_request_in_time(open_front: Open) -> None:
    front = open_front(fake_step_seconds=0.01)
    started = time.monotonic()
    front.send(_submit(1, new=5000, deadline=started + 0.3))
    (finished,) = front.until_finished()
    assert finished.reason is FinishReason.DEADLINE
    assert 0.3 <= time.monotonic() - started < PATIENCE
    assert front.steps[-1].load.blocks_used == 0


def test_log_probabilities_come_with_their_tokens(open_front: Open) -> None:
    front = open_front()
    front.send(Submit(1, [5], Sampling(logprobs=1), max_new_tokens=1))
    (delta,) = front.step().deltas
    assert delta.logprobs == [(0.0, [(delta.ids[0], 0.0)])]


def test_outputs_that_share_a_prompt_wait_for_it(open_front: Open) -> None:
    front = open_front()
    front.send(_submit(1, prompt=40, n=3))
    first = front.step()
    assert first.load.waiting_by_reason == {WaitReason.SHARED_PROMPT: 2}
    assert (first.sequences, first.prefill_tokens) == (1, 16)


def test_the_load_adds_up_in_every_step(open_front: Open) -> None:
    front = open_front(kv_blocks=20)
    front.send(*[_submit(key, new=20, prompt=7 + key) for key in range(1, 6)])
    front.until_finished(5)
    for step in front.steps:
        load = step.load
        assert load.blocks_used + load.blocks_free + load.blocks_cached == 20
        assert load.running <= 4
        assert step.tokens <= 16
        assert step.seconds > 0
        assert sum(load.waiting_by_reason.values()) == load.waiting
        assert all(load.waiting_by_reason.values())
        assert 0 <= step.prefill_tokens <= step.tokens
        assert step.tokens - step.prefill_tokens <= step.sequences <= step.tokens
    load = front.steps[-1].load
    assert (load.generation_tokens_total, load.prompt_tokens_total) == (100, 50)
    assert load.preemptions_total > 0
    assert load.tokens_resident == 0


def test_shutdown_ends_the_loop(open_front: Open) -> None:
    front = open_front(fake_step_seconds=0.01)
    front.send(_submit(1, new=5000))
    front.step()
    front.send(Shutdown())
    assert front.ends()


@pytest.mark.parametrize("busy", [False, True])
def test_the_loop_ends_when_the_front_is_gone(open_front: Open, busy: bool) -> None:
    front = open_front(fake_step_seconds=0.01)
    if busy:
        front.send(_submit(1, new=5000))
        front.step()
    front.connection.close()
    assert front.ends()


def test_overlapped_steps_deliver_the_same(open_front: Open) -> None:
    """One step is in flight while the next is launched; a cancel in between frees everything."""
    plain, overlapped = open_front(), open_front(overlap=True)
    for front in (plain, overlapped):
        front.send(*(Submit(key, [key, 2, 3], Sampling(), max_new_tokens=9) for key in range(1, 6)))
        front.until_finished(5)
        front.send(Submit(7, [1], Sampling(), 1, 50), Submit(8, [2], Sampling(), 1, 4))
        front.until(lambda step: any(delta.key == 7 for delta in step.deltas))
        front.send(Cancel(7))
        front.until_finished(7)
        assert front.steps[-1].load.blocks_used == 0
    for key in (*range(1, 6), 8):
        assert overlapped.tokens(key) == plain.tokens(key)
