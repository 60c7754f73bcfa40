"""Rotary frequencies, read off loaded models: equal to what their configuration means."""

from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from engine.loader import adopt_model
from tests.engine.models import ARCHITECTURES, tiny_model

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
HALF = 8  # of head_dim


def _frequencies(model: Any) -> torch.Tensor | None:
    return adopt_model(model, None).frequencies


def _powers(base: float) -> torch.Tensor:
    return torch.tensor([base ** (-i / HALF) for i in range(HALF)], dtype=torch.float64)


def _close(actual: torch.Tensor | None, expected: torch.Tensor) -> None:
    assert actual is not None
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected.double().expand_as(actual), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
def test_they_are_powers_of_the_base(base: float) -> None:
    rope = {"rope_type": "default", "rope_theta": base}
    model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope))
    frequencies = _frequencies(model)
    _close(frequencies, _powers(base))
    assert frequencies is not None
    assert frequencies.shape == (2, HALF)


@pytest.mark.parametrize(
    "scaling",
    [
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_scaled_frequencies_are_the_models_own(scaling: dict[str, Any]) -> None:
    rope = {"rope_theta": 10_000.0, **scaling}
    model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope))
    own = model.model.rotary_emb.inv_freq
    assert not torch.allclose(own.double(), _powers(10_000.0)), "scaling does something"
    _close(_frequencies(model), own)


def test_layers_may_have_bases_of_their_own() -> None:
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        **SIZES,
        head_dim=2 * HALF,
        layer_types=kinds,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
    )
    frequencies = _frequencies(Gemma3ForCausalLM(config))
    assert frequencies is not None
    _close(frequencies[0], _powers(10_000.0))
    _close(frequencies[1], _powers(1_000_000.0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tested_architecture_has_them(architecture: str) -> None:
    frequencies = _frequencies(tiny_model(architecture))
    assert frequencies is not None
    assert frequencies.shape == (3, 8)


def test_a_part_of_each_head_is_not_enough() -> None:
    config = StableLmConfig(**SIZES, partial_rotary_factor=0.5)
    assert _frequencies(StableLmForCausalLM(config)) is None


def test_neighbours_are_not_halves() -> None:
    model = CohereForCausalLM(CohereConfig(**SIZES, pad_token_id=0, eos_token_id=1))
    assert _frequencies(model) is None


def test_learned_positions_have_none() -> None:
    config = GPT2Config(vocab_size=32, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    assert _frequencies(GPT2LMHeadModel(config)) is None
