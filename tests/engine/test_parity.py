"""The paged engine computes what transformers' eager attention does, and a mistake would show."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine import attention
from engine.attention import register_attention
from engine.batch import BatchBuilder, Chunks
from scheduler.request import Request
from tests.engine.harness import RecordingRunner, make_runner, run
from tests.engine.models import ARCHITECTURES, VOCABULARY, tiny_model

TOLERANCE = 1e-4
LENGTHS = (1, 3, 17, 31, 40, 65)


def _requests(max_new_tokens: int = 12) -> list[Request]:
    rng = random.Random(3)
    return [
        Request(
            key=key,
            prompt=tuple(rng.randrange(3, VOCABULARY) for _ in range(length)),
            max_new_tokens=max_new_tokens,
        )
        for key, length in enumerate(LENGTHS)
    ]


def _largest_difference(runner: RecordingRunner, architecture: str) -> float:
    """Largest difference of any recorded row from a full eager forward of the same tokens."""
    requests = _requests()
    outcomes = run(runner, requests, stagger=2)
    eager = tiny_model(architecture)
    worst = 0.0
    for request in requests:
        tokens = [*request.prompt, *outcomes[request.key, 0].tokens]
        expected = eager(torch.tensor([tokens[:-1]])).logits[0]
        for (key, _, position), row in runner.rows.items():
            if key == request.key:
                worst = max(worst, float((row - expected[position]).abs().max()))
    return worst


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernels", ["numba", "reference"])
def test_logits_equal_eager_with_prefill_chunks_and_decodes_mixed(
    architecture: str, kernels: str
) -> None:
    runner = make_runner(architecture, kernels=kernels)
    assert _largest_difference(runner, architecture) <= TOLERANCE
    assert runner.mixed_steps > 3, "no step mixed prefill and decode: the test tests nothing"
    assert len(runner.rows) == len(LENGTHS) * 12


def test_logits_spread_far_beyond_the_tolerance() -> None:
    for architecture in ARCHITECTURES:
        logits = tiny_model(architecture)(torch.arange(3, 40)[None]).logits
        assert logits.std() > 0.3


def _scaled(original: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*args: Any, scale: float, **kwargs: Any) -> Any:
        return original(*args, scale=scale * 1.1, **kwargs)

    return wrong


def _windowless(original: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*args: Any, window: int | None, **kwargs: Any) -> Any:
        return original(*args, window=None, **kwargs)

    return wrong


@pytest.mark.parametrize("mistake", [_scaled, _windowless])
def test_a_wrong_scale_or_a_missing_window_would_show(
    monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., Any]
) -> None:
    for name in ("paged_decode", "paged_prefill"):
        monkeypatch.setattr(attention, name, mistake(getattr(attention, name)))
    assert _largest_difference(make_runner("gemma3"), "gemma3") > 100 * TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_wrong_position_or_a_lost_entry_would_show(
    monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    original = BatchBuilder.build

    def shifted(self: BatchBuilder, *args: Any) -> Any:
        batch = original(self, *args)
        decodes = batch.context.decodes
        batch.context.positions[:decodes] += 1
        return batch

    monkeypatch.setattr(BatchBuilder, "build", shifted)
    assert _largest_difference(make_runner(architecture), architecture) > 10 * TOLERANCE

    def forgetful(self: BatchBuilder, *args: Any) -> Any:
        batch = original(self, *args)
        batch.context.decode_lengths -= 1  # the token does not see itself
        return batch

    monkeypatch.setattr(BatchBuilder, "build", forgetful)
    assert _largest_difference(make_runner(architecture), architecture) > 10 * TOLERANCE


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_output_equals_generate_token_for_token(architecture: str) -> None:
    requests = _requests(max_new_tokens=40)
    for i, request in enumerate(requests):
        greedy = type(request.sampling)(temperature=0.0)
        requests[i] = Request(
            key=request.key,
            prompt=request.prompt,
            max_new_tokens=40,
            sampling=greedy,
            end_ids=frozenset({1}),
        )
    outcomes = run(make_runner(architecture, kv_blocks=128), requests, stagger=1)
    eager = tiny_model(architecture)
    for request in requests:
        prompt = torch.tensor([request.prompt])
        generated = eager.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=0,
        )
        expected = generated[0, len(request.prompt) :].tolist()
        assert outcomes[request.key, 0].tokens == expected, f"prompt {len(request.prompt)}"


def test_unsupported_attention_is_refused_by_name() -> None:
    runner = make_runner("llama")
    module = next(m for m in runner._loaded.model.modules() if hasattr(m, "layer_idx"))
    query = torch.zeros(1, 4, 1, 16)
    plan = _one_token_plan()
    runner._rows.update(plan.chunks)
    batch = runner._batches.build(plan, Chunks.of(plan.chunks), {})
    with (
        pytest.raises(NotImplementedError, match="softcap"),
        attention_context(batch),
    ):
        attention.paged_attention(module, query, query[:, :2], query[:, :2], None, softcap=30.0)


def _one_token_plan() -> Any:
    from scheduler.plan import Chunk, StepPlan
    from scheduler.request import Sequence

    sequence = Sequence(Request(key=1, prompt=(5,), max_new_tokens=1), 0, [5])
    sequence.blocks, sequence.row = [0], 0
    return StepPlan(chunks=[Chunk(sequence, 0, 1, 0, True)])


def attention_context(batch: Any) -> Any:
    from engine.context import forward_context

    return forward_context(batch.context)


def test_the_attention_name_keeps_out_of_transformers_special_cases() -> None:
    name = register_attention()
    assert "flash" not in name
    assert "/" not in name
    assert not name.startswith("paged|")
