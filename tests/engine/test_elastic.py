"""Elastic budgets on a model: pressed outputs draw what the plain decode draws, told the rounds."""

import random
from dataclasses import replace
from functools import partial

import pytest

from engine.eviction import POLICIES
from scheduler.budget import Budget
from scheduler.config import SchedulerConfig
from scheduler.request import Request, Sampling
from tests.engine.dense_oracle import DenseDecoder
from tests.engine.eviction.artifacts import random_artifacts
from tests.engine.harness import Outcome, RecordingRunner, make_runner, run
from tests.engine.models import VOCABULARY, tiny_model
from tests.thorough import some

GREEDY = Sampling(temperature=0.0, seed=5)
RING = 32
BLOCK = SchedulerConfig.block_size


def _request(key: int, cap: int | None, floor: int | None = None, new: int = 90) -> Request:
    """A request with a prompt of `key` tokens."""
    rng = random.Random(key)
    prompt = tuple(rng.randrange(3, VOCABULARY) for _ in range(key))
    budget = None
    if cap is not None:
        budget = Budget(cap, "window", {}, recent=6, pinned=key, reclaim=9, min_tokens=floor)
    return Request(key, prompt, new, sampling=GREEDY, budget=budget)


def _with_policy(request: Request, policy: str) -> Request:
    assert request.budget is not None
    budget = replace(request.budget, policy=policy)
    if POLICIES[policy].whole_blocks:
        budget = replace(budget, reclaim=BLOCK, unit=BLOCK)
        budget = replace(budget, min_tokens=max(budget.floor, budget.least))
    return replace(request, budget=budget)


def _draws_as_told(runner: RecordingRunner, request: Request, outcome: Outcome) -> None:
    """Asserts that the plain decode draws the same, when it is told the same rounds."""
    loaded = runner._loaded
    assert request.budget is not None
    rounds = runner.rounds[request.key, 0]
    oracle = DenseDecoder(
        partial(tiny_model, "llama"),
        request,
        RING,
        frequencies=loaded.frequencies,
        artifact=random_artifacts(loaded.shape).get(request.budget.policy),
        rounds=rounds,
    )
    assert outcome.tokens == oracle.decode()
    assert outcome.usage.eviction_rounds == oracle.rounds == len(rounds)


@pytest.mark.parametrize("policy", some(POLICIES, 2))
def test_pressed_outputs_draw_what_the_plain_decode_draws(policy: str) -> None:
    elastic = [_with_policy(_request(key, 120, 48), policy) for key in (11, 20)]
    others = [_request(30, 60), _request(5, None, new=40)]
    runner = make_runner("llama", query_ring=RING, max_batch_tokens=64, kv_blocks=14)
    outcomes = run(runner, [*elastic, *others], stagger=12)
    for request in elastic:
        outcome = outcomes[request.key, 0]
        assert outcome.usage.kv_tokens_pressed > 0
        assert outcome.usage.kv_tokens_peak > 60
        _draws_as_told(runner, request, outcome)
    assert outcomes[30, 0].usage.kv_tokens_pressed == 0
    assert outcomes[5, 0].usage.preemptions == 0
    for request in others:
        alone = run(make_runner("llama", query_ring=RING), [request])
        assert outcomes[request.key, 0].tokens == alone[request.key, 0].tokens


def test_without_pressure_an_elastic_budget_draws_what_its_cap_draws() -> None:
    elastic, fixed = _request(11, 60, 32), _request(11, 60)
    assert run(make_runner("llama"), [elastic]) == run(make_runner("llama"), [fixed])


def test_with_nothing_to_spare_it_draws_what_its_floor_draws() -> None:
    elastic = run(make_runner("llama", kv_blocks=3), [_request(11, 120, 48)])[11, 0]
    fixed = run(make_runner("llama"), [_request(11, 48)])[11, 0]
    assert elastic.tokens == fixed.tokens
    assert elastic.usage.kv_tokens_pressed == fixed.usage.kv_tokens_evicted > 0
