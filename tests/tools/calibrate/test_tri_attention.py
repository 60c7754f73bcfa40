"""Query statistics against queries caught before their rotation in eager transformers."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from clients.errors import DataError
from engine.eviction.tri_attention import TriAttention
from tests.engine.models import tiny_model
from tests.tools.calibrate.subjects import random_traces, silent, tiny
from tools.calibrate.subject import make_subject
from tools.calibrate.tri_attention import calibrate_tri_attention

UNROTATED = {"llama": "q_proj", "qwen3": "q_norm", "gemma3": "q_norm"}  # what rotation is given


def _queries(architecture: str) -> list[list[torch.Tensor]]:
    """By layer, of each trace [tokens, heads, head_dim] of the tokens behind the prompt."""
    model: Any = tiny_model(architecture)
    caught: list[list[torch.Tensor]] = [[] for _ in model.model.layers]
    for layer, kept in zip(model.model.layers, caught, strict=True):
        module = getattr(layer.self_attn, UNROTATED[architecture])
        module.register_forward_hook(lambda _, __, out, kept=kept: kept.append(out))
    for trace in random_traces(3):
        model(torch.tensor([trace.ids]))
    heads, dim = model.config.num_attention_heads, model.config.head_dim
    return [
        [
            query.view(len(trace.ids), heads, dim)[trace.prompt :]
            if architecture == "llama"
            else query.view(-1, len(trace.ids), dim).transpose(0, 1)[trace.prompt :]
            if query.shape[1] == heads
            else query.view(len(trace.ids), heads, dim)[trace.prompt :]
            for query, trace in zip(layer, random_traces(3), strict=True)
        ]
        for layer in caught
    ]


@pytest.mark.parametrize("architecture", UNROTATED)
def test_statistics_are_those_of_unrotated_queries(architecture: str) -> None:
    subject = tiny(architecture)
    tensors, facts = calibrate_tri_attention(subject, random_traces(3), 0, silent)
    assert TriAttention.artifact_complaint(tensors, subject.shape) == ""
    tokens = sum(len(trace.ids) - trace.prompt for trace in random_traces(3))
    assert facts == {"tokens": str(tokens)}
    for layer, caught in enumerate(_queries(architecture)):
        queries = torch.cat(caught).double()  # [tokens, heads, head_dim]
        assert len(queries) == tokens
        mean = queries.mean(dim=0)
        torch.testing.assert_close(tensors["q_mean"][layer].double(), mean, atol=1e-5, rtol=1e-4)
        half = queries.shape[-1] // 2
        lengths = torch.hypot(queries[..., :half], queries[..., half:]).mean(dim=0)
        torch.testing.assert_close(tensors["q_abs"][layer].double(), lengths, atol=1e-5, rtol=1e-4)


def test_a_model_without_rotary_positions_is_refused() -> None:
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    subject = make_subject("gpt2", GPT2LMHeadModel(config), None)
    with pytest.raises(DataError, match="gpt2 lacks"):
        calibrate_tri_attention(subject, random_traces(1), 0, silent)
