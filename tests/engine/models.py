"""Tiny random models of the tested architectures, with logits large enough to tell mistakes."""

from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
VOCABULARY = 97
END_TOKEN = 1

# Weights six times the default make logits spread by about 1, so that 1e-4 means something.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.12,
    "bos_token_id": 2,
    "eos_token_id": END_TOKEN,
    "pad_token_id": 0,
}


def tiny_model(architecture: str, attention: str = "eager") -> PreTrainedModel:
    """A seeded model in float32; the same weights for the same architecture, whatever attention."""
    torch.manual_seed(7)
    builders: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "llama": (LlamaConfig, LlamaForCausalLM, {}),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
        "gemma3": (
            Gemma3TextConfig,
            Gemma3ForCausalLM,
            {
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                "query_pre_attn_scalar": 16,
            },
        ),
    }
    config_class, model_class, extra = builders[architecture]
    config = config_class(**{**_SIZES, **extra})
    config._attn_implementation = attention
    model: PreTrainedModel = model_class(config)
    return model.eval().requires_grad_(False)
