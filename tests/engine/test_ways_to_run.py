"""Every way to run a step draws the same tokens: fused, on static tensors, overlapped, alone."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import fused, static_steps
from engine.runner import ModelRunner
from engine.static_steps import sizes, widths
from engine.steps import Steps
from scheduler.budget import BudgetLimits, BudgetRequest, resolve
from scheduler.request import Request, Sampling
from scheduler.scheduler import Scheduler
from tests.engine.harness import Outcome, make_runner, run
from tests.engine.models import ARCHITECTURES

LLAMA_SHAPED = ("llama", "qwen2", "qwen3")
WAYS: dict[str, dict[str, Any]] = {
    "stock": {"fused": False},
    "static": {"static_steps": True},
    "overlap": {"overlap": True},
    "static and overlap": {"static_steps": True, "overlap": True},
}


def _requests(policy: str | None = None) -> list[Request]:
    """Greedy and drawn, with penalties and log-probabilities, with and without a budget."""
    samplings = [
        Sampling(0.0),
        Sampling(0.8, top_p=0.9, seed=3),
        Sampling(1.0, top_k=5, seed=4),
        Sampling(0.7, min_p=0.1, seed=5, logprobs=2),
        Sampling(0.9, repetition_penalty=1.3, seed=6),
        Sampling(0.0, repetition_penalty=1.5),
    ]
    requests = []
    for key, sampling in enumerate(samplings):
        prompt = tuple(5 + (7 * key + i) % 40 for i in range(3 + 9 * key % 20))
        budget = None
        if policy is not None and key % 2 == 0:
            asked = BudgetRequest(max_tokens=len(prompt) + 16, recent_tokens=4, reclaim_tokens=4)
            budget = resolve(
                BudgetRequest(**{**asked.__dict__, "policy": policy}),
                BudgetLimits(),
                prompt_tokens=len(prompt),
                max_new_tokens=30,
            )
        requests.append(Request(key, prompt, 30, n=1 + key % 2, sampling=sampling, budget=budget))
    return requests


def _steps(
    runner: ModelRunner, requests: list[Request], cancel: tuple[int, int] = (-1, -1)
) -> dict[tuple[int, int], Outcome]:
    """As `run`, but step by step as the engine does; `cancel`: at which step, which request."""
    scheduler = Scheduler(runner._config.scheduler, runner.total_blocks, runner.choose_blocks)
    steps, outcomes, count = Steps(scheduler, runner), {}, 0
    for request in requests:
        scheduler.submit(request)
    while scheduler.num_live:
        steps.step()
        if count == cancel[0]:
            scheduler.cancel(cancel[1])
        count += 1
        scheduler.check()
        for sequence, reason in scheduler.take_finished():
            tokens = sequence.tokens[sequence.prompt_tokens :]
            outcomes[sequence.request.key, sequence.output] = Outcome(tokens, reason)
    assert scheduler.kv.pool.held == 0
    return outcomes


def _tokens(outcomes: dict[tuple[int, int], Outcome]) -> dict[tuple[int, int], list[int]]:
    return {name: outcome.tokens for name, outcome in outcomes.items()}


POLICIES = (None, "window", "snapkv", "h2o", "paged_eviction", "dynts")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_draws_the_same_tokens(way: str, policy: str | None) -> None:
    expected = _tokens(run(make_runner("llama"), _requests(policy)))
    runner = make_runner("llama", **WAYS[way])
    assert _tokens(_steps(runner, _requests(policy))) == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_and_stock_logits_agree(architecture: str) -> None:
    plain = make_runner(architecture, fused=False)
    runner = make_runner(architecture)
    is_fused = isinstance(runner._forward.logits_of, fused.FusedDecoder)
    assert is_fused == (architecture in LLAMA_SHAPED)
    run(plain, _requests())
    run(runner, _requests())
    assert plain.rows.keys() == runner.rows.keys()
    worst = max(float((plain.rows[k] - runner.rows[k]).abs().max()) for k in plain.rows)
    assert worst < 1e-5


def test_a_model_that_only_looks_like_a_llama_is_not_fused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from tests.engine.models import tiny_model

    model = tiny_model("llama", "sluice")
    layer = model.model.layers[0]
    original = layer.mlp.forward
    layer.mlp.forward = lambda x: 2.0 * original(x)  # as a model with residual multipliers
    runner = make_runner("llama", model=model)
    assert not isinstance(runner._forward.logits_of, fused.FusedDecoder)
    assert "looks like a Llama" in caplog.text


def test_merged_projections_cost_no_memory() -> None:
    runner = make_runner("qwen2")
    attention = runner._loaded.model.model.layers[0].self_attn
    storages = {
        getattr(attention, name).weight.untyped_storage().data_ptr()
        for name in ("q_proj", "k_proj", "v_proj")
    }
    assert len(storages) == 1


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), cancelled=st.integers(0, 5), step=st.integers(1, 40))
def test_a_cancel_in_flight_changes_no_other_output(
    shared_runners: tuple[ModelRunner, ModelRunner], seed: int, cancelled: int, step: int
) -> None:
    plain, overlapped = shared_runners
    expected = _tokens(run(plain, _requests("snapkv")))
    outcomes = _tokens(_steps(overlapped, _requests("snapkv"), cancel=(step, cancelled)))
    for name, tokens in outcomes.items():
        whole = expected[name]
        assert tokens == whole or (name[0] == cancelled and tokens == whole[: len(tokens)])


@pytest.fixture(scope="module")
def shared_runners() -> tuple[ModelRunner, ModelRunner]:
    return make_runner("llama"), make_runner("llama", static_steps=True, overlap=True)


def test_padding_rows_write_nothing() -> None:
    """Rows of nobody fill a capture up; slots, rings and rows of others stay as they were."""
    runner = make_runner("llama", static_steps=True, max_running=8)
    pool, ring = runner._batches._pool, runner._ring
    for tensor in (pool.keys, pool.values, pool.mass):
        tensor.fill_(7.0)
    pool.positions.fill_(-5)
    assert ring is not None
    ring._queries.fill_(7.0)
    before = ring._queries[:, :8].clone()
    assert runner._static is not None
    with torch.inference_mode():
        runner._static.capture_ahead(1)
    assert bool((pool.keys == 7.0).all())
    assert bool((pool.values == 7.0).all())
    assert bool((pool.positions == -5).all())
    assert torch.equal(ring._queries[:, :8], before)


def test_decodes_of_one_size_share_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = []
    original = static_steps.StaticSteps._capture
    monkeypatch.setattr(
        static_steps.StaticSteps,
        "_capture",
        lambda self, batch: captures.append(len(batch.ids)) or original(self, batch),
    )
    runner = make_runner("llama", static_steps=True, max_running=8)
    assert captures == sorted(sizes(8), reverse=True), "the largest first"
    run(runner, _requests())
    assert len(captures) == len(sizes(8)), "all steps found a capture made ahead"


@pytest.mark.parametrize("largest", [1, 2, 7, 64, 200, 256])
def test_sizes_waste_a_quarter_at_most(largest: int) -> None:
    chosen = sizes(largest)
    assert chosen[0] == 1
    assert chosen[-1] == largest
    assert all(a < b <= a + max(1, a // 4) for a, b in pairwise(chosen))
    assert widths(largest)[-1] == largest


def test_no_growth_over_many_steps() -> None:
    """Nothing in the engine grows with the steps run: same objects, same tensors."""
    import gc

    runner = make_runner("llama", static_steps=True, overlap=True)

    def live() -> tuple[int, int]:
        gc.collect()
        tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
        return len(gc.get_objects()), sum(t.numel() for t in tensors)

    def work() -> None:
        _steps(runner, _requests("snapkv"))
        runner.rows.clear()  # type: ignore[attr-defined]
        runner.rounds.clear()  # type: ignore[attr-defined]

    work()
    before = live()
    for _ in range(5):
        work()
    after = live()
    assert after[1] == before[1], "tensors grew"
    assert after[0] - before[0] < 50, "objects grew"
