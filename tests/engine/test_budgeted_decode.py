"""Decoding under a budget: equal to the plain implementation, and exactly what was promised."""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from engine.eviction import POLICIES
from scheduler.budget import Budget, whole
from scheduler.config import SchedulerConfig
from scheduler.request import Request, Sampling
from tests.engine.dense_oracle import DenseDecoder
from tests.engine.eviction.artifacts import random_artifacts
from tests.engine.harness import make_runner, run
from tests.engine.models import VOCABULARY, tiny_model
from tests.thorough import pairs

GREEDY = Sampling(temperature=0.0, seed=5)
RING = 32
BLOCK = SchedulerConfig.block_size


def _prompt(length: int, seed: int = 1) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, VOCABULARY) for _ in range(length))


def _budget(policy: str, cap: int, prompt: int, **changes: Any) -> Budget:
    settings: dict[str, Any] = {"recent": 6, "pinned": prompt, "reclaim": 9, **changes}
    if POLICIES[policy].whole_blocks:
        settings |= {"reclaim": whole(settings["reclaim"], BLOCK), "unit": BLOCK}
    budget = Budget(cap=cap, policy=policy, policy_settings={}, **settings)
    return replace(budget, cap=max(cap, budget.least))


def _request(key: int, prompt: int, budget: Budget | None, new: int = 90) -> Request:
    return Request(
        key=key,
        prompt=_prompt(prompt, seed=prompt),
        max_new_tokens=new,
        sampling=GREEDY,
        budget=budget,
    )


@pytest.mark.parametrize(("policy", "architecture"), pairs(POLICIES, ["llama", "gemma3", "qwen2"]))
def test_same_tokens_as_without_pages(policy: str, architecture: str) -> None:
    """Proves the whole path of a policy: ring, counted attention, moves, and (Gemma) that sliding
    layers mask by logical position, which slots no longer tell after a round."""
    if architecture == "gemma3" and POLICIES[policy].needs_mass:
        pytest.skip("received attention is counted as if layers had no window (engine/mass.py)")
    budgets = {11: _budget(policy, 40, 11), 20: _budget(policy, 53, 20, reclaim=16)}
    requests = [_request(key, key, budget) for key, budget in budgets.items()]
    noise = [_request(3, 5, None), _request(4, 30, _budget("window", 47, 30))]
    runner = make_runner(architecture, query_ring=RING, max_batch_tokens=64)
    outcomes = run(runner, [*requests, *noise], stagger=3)
    loaded = runner._loaded
    for request in requests:
        oracle = DenseDecoder(
            partial(tiny_model, architecture),
            request,
            RING,
            frequencies=loaded.frequencies,
            artifact=random_artifacts(loaded.shape).get(policy),
        )
        outcome = outcomes[request.key, 0]
        assert outcome.tokens == oracle.decode()
        assert outcome.usage.eviction_rounds == oracle.rounds > 3


def test_policies_differ() -> None:
    """Were eviction a no-op, all policies would draw what the whole cache draws."""
    drawn = {}
    for policy in POLICIES:
        runner = make_runner("llama")
        drawn[policy] = tuple(run(runner, [_request(1, 11, _budget(policy, 40, 11))])[1, 0].tokens)
    whole = tuple(run(make_runner("llama"), [_request(1, 11, None)])[1, 0].tokens)
    assert whole not in drawn.values()
    assert len(set(drawn.values())) == len(POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_budget_of_the_whole_length_changes_nothing(policy: str) -> None:
    whole = run(make_runner("qwen3"), [_request(1, 17, None, new=60)])[1, 0]
    budget = _budget(policy, 77, 17)
    budgeted = run(make_runner("qwen3"), [_request(1, 17, budget, new=60)])[1, 0]
    assert budgeted.tokens == whole.tokens
    assert budgeted.usage.kv_tokens_evicted == 0


@pytest.mark.parametrize("policy", ["window", "r_kv", "h2o"])
def test_the_prompt_may_go_and_the_cap_still_holds(policy: str) -> None:
    budget = _budget(policy, 32, prompt=0, pinned=2, evict_prompt=True)
    outcome = run(make_runner("llama"), [_request(1, 70, budget, new=30)])[1, 0]
    assert len(outcome.tokens) == 30
    assert outcome.usage.kv_tokens_peak == 32
    assert outcome.usage.kv_tokens_evicted >= 70 + 29 - 32


def test_outputs_of_one_prompt_share_its_blocks_and_differ_by_their_index() -> None:
    sampling = Sampling(temperature=1.0, seed=9)
    prompt = _prompt(40)
    shared = Request(key=1, prompt=prompt, max_new_tokens=20, n=3, sampling=sampling)
    outcomes = run(make_runner("llama"), [shared])
    assert len({tuple(outcomes[1, i].tokens) for i in range(3)}) == 3
    assert [outcomes[1, i].usage.cached_prompt_tokens for i in range(3)] == [0, 32, 32]
    alone = replace(shared, key=2, n=1)
    assert run(make_runner("llama"), [alone])[2, 0].tokens == outcomes[1, 0].tokens


def test_shared_prompts_survive_the_eviction_of_their_other_owners() -> None:
    prompt = _prompt(40)
    requests = [
        Request(1, prompt, 60, sampling=GREEDY, budget=_budget("r_kv", 64, 40)),
        Request(2, prompt, 60, sampling=GREEDY),
        Request(3, prompt, 60, sampling=GREEDY, budget=_budget("window", 60, 40)),
    ]
    together = run(make_runner("llama"), requests, stagger=4)
    assert together[2, 0].usage.cached_prompt_tokens == 32
    for request in requests:
        alone = run(make_runner("llama"), [request])
        assert together[request.key, 0].tokens == alone[request.key, 0].tokens


def test_preempted_requests_draw_what_they_would_have_drawn() -> None:
    requests = [_request(key, 10 + key, None, new=60) for key in range(5)]
    runner = make_runner("llama", kv_blocks=12)
    outcomes = run(runner, requests)
    assert sum(outcome.usage.preemptions for outcome in outcomes.values()) > 0
    for request in requests:
        alone = run(make_runner("llama"), [request])
        assert outcomes[request.key, 0].tokens == alone[request.key, 0].tokens
