"""A step of a real model fails: its requests are lost, the others and the next ones are not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.runner import ModelRunner
from engine.runner_api import StepFailed
from engine.steps import FAILURES_IN_A_ROW, Steps
from scheduler.budget import BudgetLimits, BudgetRequest, resolve
from scheduler.request import FinishReason, Request, Sampling
from scheduler.scheduler import Scheduler
from tests.engine.harness import make_runner, run

NEW = 30
WAYS: list[dict[str, Any]] = [{}, {"overlap": True}, {"static_steps": True, "overlap": True}]


def requests(keys: range) -> list[Request]:
    """With and without a budget that needs evictions; the same for the same key modulo ten."""
    made = []
    for key in keys:
        number = key % 10
        prompt = tuple(5 + (7 * number + i) % 40 for i in range(10 + number))
        budget = None
        if number % 2:
            asked = BudgetRequest(len(prompt) + 12, "snapkv", recent_tokens=4, reclaim_tokens=4)
            budget = resolve(asked, BudgetLimits(), prompt_tokens=len(prompt), max_new_tokens=NEW)
        sampling = Sampling(0.8, seed=number, repetition_penalty=1.2 if number == 2 else 1.0)
        made.append(Request(key, prompt, NEW, sampling=sampling, budget=budget))
    return made


def out_of_memory() -> None:
    """As an allocator says it."""
    torch.empty(2**50, dtype=torch.int8)


def failing(runner: ModelRunner, when: int, how: Callable[[], None], after: bool) -> None:
    """Makes a step of the runner fail, before or after its forward."""
    run_step, steps = runner._run, iter(range(10**6))

    def sometimes(*of_the_step: Any) -> Any:
        fails = next(steps) == when
        if fails and not after:
            how()
        result = run_step(*of_the_step)
        if fails:
            how()
        return result

    runner._run = sometimes  # type: ignore[method-assign]


def play(runner: ModelRunner, asked: list[Request]) -> dict[int, tuple[list[int], FinishReason]]:
    """Runs requests as the engine does, three at a time; then once more those that were lost."""
    scheduler = Scheduler(runner._config.scheduler, runner.total_blocks, runner.choose_blocks)
    steps, outcomes, again = Steps(scheduler, runner), {}, []
    for request in asked:
        scheduler.submit(request)
    while scheduler.num_live:
        steps.step()
        scheduler.check()
        for sequence, reason in scheduler.take_finished():
            key = sequence.request.key
            outcomes[key] = sequence.tokens[sequence.prompt_tokens :], reason
            if reason is FinishReason.LOST:
                again += requests(range(key + 10, key + 11))
        if not scheduler.num_live:
            for request in again:
                scheduler.submit(request)
            again = []
    assert scheduler.kv.pool.held == 0
    return outcomes


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way) or "plain")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("when", [0, 1, 17, 25])
def test_the_next_steps_are_as_if_nothing_had_been(
    way: dict[str, Any], after: bool, when: int
) -> None:
    expected = {
        key: o.tokens for (key, _), o in run(make_runner("llama"), requests(range(5))).items()
    }
    runner = make_runner("llama", max_running=3, kv_blocks=20, **way)
    failing(runner, when, out_of_memory, after)
    outcomes = play(runner, requests(range(5)))
    lost = {key for key, (_, reason) in outcomes.items() if reason is FinishReason.LOST}
    assert lost, "no step failed"
    assert lost <= set(range(3)), "others than those that ran"
    for key, (tokens, reason) in outcomes.items():
        if key in lost:
            assert tokens == expected[key][: len(tokens)]
            assert key + 10 in outcomes
        else:
            assert (tokens, reason) == (expected[key % 10], FinishReason.LENGTH)


def test_a_kernel_that_is_refused_is_a_failed_step() -> None:
    runner = make_runner("llama")

    def refuse() -> None:
        raise RuntimeError("out of resource: shared memory, Required: 99999")

    failing(runner, 3, refuse, after=False)
    outcomes = play(runner, requests(range(2)))
    assert {outcomes[key][1] for key in (0, 1)} == {FinishReason.LOST}
    assert {outcomes[key][1] for key in (10, 11)} == {FinishReason.LENGTH}


def test_a_device_that_is_lost_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access every call of CUDA fails; nothing in this process will mend it."""

    def unusable(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("engine.runner.check_usable", unusable)
    runner = make_runner("llama")
    failing(runner, 3, out_of_memory, after=False)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        play(runner, requests(range(2)))


def test_steps_that_fail_one_after_another_end_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = make_runner("llama")
    monkeypatch.setattr(runner, "_run", lambda *_: out_of_memory())
    scheduler = Scheduler(runner._config.scheduler, runner.total_blocks)
    steps = Steps(scheduler, runner)
    for request in requests(range(FAILURES_IN_A_ROW - 1)):
        scheduler.submit(request)
        steps.step()
        assert [reason for _, reason in scheduler.take_finished()] == [FinishReason.LOST]
    scheduler.submit(requests(range(9, 10))[0])
    with pytest.raises(StepFailed, match="can't allocate memory"):
        steps.step()
