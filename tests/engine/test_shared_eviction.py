"""Shared prompts on a model: under any mixture of policies and ends, outputs are those of runs
that share nothing."""

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from engine.eviction import POLICIES
from scheduler.budget import Budget, whole
from scheduler.config import SchedulerConfig
from scheduler.plan import Totals
from scheduler.request import FinishReason, Request, Sampling
from scheduler.scheduler import Scheduler
from tests.engine.dense_oracle import DenseDecoder
from tests.engine.eviction.artifacts import random_artifacts
from tests.engine.harness import RecordingRunner, make_runner
from tests.engine.models import VOCABULARY, tiny_model
from tests.thorough import some

RING = 32
BLOCKS = 22  # too few for all
BLOCK = SchedulerConfig.block_size
STEM = tuple(random.Random(8).randrange(3, VOCABULARY) for _ in range(48))
GREEDY = Sampling(temperature=0.0, seed=5)

Name = tuple[int, int]  # request key, output


def _budget(policy: str, prompt: int, over: int, **changes: Any) -> Budget:
    """A budget of `over` tokens more than it must have."""
    unit = BLOCK if POLICIES[policy].whole_blocks else 1
    pinned = 2 if changes.get("evict_prompt") else prompt
    budget = Budget(0, policy, {}, recent=6, pinned=pinned, reclaim=whole(7, unit), unit=unit)
    return replace(budget, cap=budget.least + over, **changes)


def _run(
    runner: RecordingRunner,
    requests: list[Request],
    ends: Mapping[int, Name] | None = None,
    only: int | None = None,
) -> tuple[dict[Name, tuple[list[int], FinishReason]], Totals]:
    """What each output drew and why it ended; and what it took.

    Args:
        runner: as many requests as it has blocks for share them.
        requests: one more is submitted every four steps.
        ends: outputs that end early, by step; output -1 is the whole request.
        only: the one output that runs; the others are stopped at once.
    """
    scheduler = Scheduler(runner._config.scheduler, runner.total_blocks, runner.choose_blocks)
    queue, step, drawn = list(requests), 0, {}
    while queue or scheduler.num_live:
        if queue and step % 4 == 0:
            request = queue.pop(0)
            scheduler.submit(request)
            for output in range(request.n):
                if only is not None and output != only:
                    scheduler.stop(request.key, output)
        key, output = (ends or {}).get(step, (0, 0))
        scheduler.cancel(key) if output < 0 else scheduler.stop(key, output)
        plan = scheduler.plan(float(step))
        if not plan.empty:
            scheduler.commit(plan, runner.execute(plan), float(step))
        scheduler.check()
        for sequence, reason in scheduler.take_finished():
            name = sequence.request.key, sequence.output
            drawn[name] = (sequence.tokens[sequence.prompt_tokens :], reason)
        step += 1
    assert scheduler.kv.pool.held == 0
    return drawn, scheduler.totals


def _told(runner: RecordingRunner, request: Request, output: int) -> list[int]:
    """The plain decode of an output, told the rounds that it had; greedy outputs differ in these
    alone."""
    assert request.budget is not None
    oracle = DenseDecoder(
        partial(tiny_model, "llama"),
        request,
        RING,
        frequencies=runner._loaded.frequencies,
        artifact=random_artifacts(runner._loaded.shape).get(request.budget.policy),
        rounds=runner.rounds.get((request.key, output), {}),
    )
    return oracle.decode()


@pytest.mark.parametrize("seed", some(range(4), 2))
def test_outputs_are_those_of_runs_that_share_nothing(seed: int) -> None:
    rng = random.Random(seed)
    policies = rng.sample(list(POLICIES), 6)
    settings = {"query_ring": RING, "max_batch_tokens": 64}
    draw = Sampling(temperature=1.0, top_k=4, seed=seed)  # few, so that rounding decides nothing
    requests = [
        Request(1, STEM, 70, n=3, sampling=draw, budget=_budget(policies[0], 48, 4)),
        Request(2, STEM, 100, n=3, sampling=draw),
        Request(3, STEM[:40], 70, sampling=draw, budget=_budget(policies[1], 40, 9)),
        Request(4, STEM, 60, n=2, budget=_budget(policies[2], 48, 1, evict_prompt=True)),
        Request(5, (*STEM[:32], 9, 8), 80, n=2, budget=_budget(policies[3], 34, 0)),
        Request(6, STEM, 60, sampling=draw, budget=_budget("paged_eviction", 48, 3)),
    ]
    stretched = [
        replace(request, budget=replace(request.budget, cap=140, min_tokens=request.budget.cap))
        for request in (
            Request(7, STEM, 90, n=2, sampling=GREEDY, budget=_budget("r_kv", 48, 0)),
            Request(8, STEM[:40], 90, sampling=GREEDY, budget=_budget("paged_eviction", 40, 0)),
        )
        if request.budget is not None
    ]
    everyone = [*requests, *stretched]
    rng.shuffle(everyone)
    everyone = [replace(request, arrival=float(i)) for i, request in enumerate(everyone)]
    ends = {rng.randrange(40, 90): (1, 2), rng.randrange(40, 90): (3, -1)}
    runner = make_runner("llama", kv_blocks=BLOCKS, max_running=14, **settings)
    together, totals = _run(runner, everyone, ends)
    assert min(totals.preemptions, totals.pressed, totals.cached_prompt_tokens) > 0
    assert len(totals.rounds) >= 4
    for request in everyone:
        for output in range(request.n):
            drawn, reason = together[request.key, output]
            if request.budget is not None and request.budget.elastic:
                expected = _told(runner, request, output)
            else:
                alone, _ = _run(make_runner("llama", **settings), [request], only=output)
                expected = alone[request.key, output][0]
            assert drawn == expected[: len(drawn)], f"{request.key}/{output}"
            assert reason != FinishReason.LENGTH or drawn == expected
