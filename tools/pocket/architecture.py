"""The pocket models as stock transformers modules, and an attention that trains fast on a CPU."""

import math
from typing import Any

import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tools.pocket.tokenizer import VOCAB_SIZE

TRAINING_ATTENTION = "pocket_training"
MODELS = {
    "pocket-llama": (LlamaConfig, LlamaForCausalLM),
    "pocket-qwen": (Qwen2Config, Qwen2ForCausalLM),
}
LAYERS = 4
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
}


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over right-padded rows, written out.

    query [rows, heads, width, head_dim], key and value [rows, kv_heads, width, head_dim]; returns
    [rows, width, heads, head_dim]. Almost twice as fast on a CPU in bfloat16, both ways, as
    `scaled_dot_product_attention`, whose backward pass took 38 % of a training step.
    """
    rows, heads, width, head_dim = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    grouped = query.reshape(rows, kv_heads, group * width, head_dim) * head_dim**-0.5
    scores = (grouped @ key.transpose(-1, -2)).view(rows, heads, width, width)
    future = torch.full((width, width), -math.inf, dtype=scores.dtype).triu(1)
    weights = (scores + future).softmax(dim=-1).to(value.dtype)
    mixed = weights.view(rows, kv_heads, group * width, width) @ value
    return mixed.view(rows, heads, width, head_dim).transpose(1, 2), None


def build_model(name: str, seed: int) -> Any:
    """A freshly initialised float32 model of that name, attention set for training."""
    AttentionInterface.register(TRAINING_ATTENTION, causal_attention)
    AttentionMaskInterface.register(TRAINING_ATTENTION, lambda *args, **kwargs: None)
    config_class, model_class = MODELS[name]
    torch.manual_seed(seed)
    model = model_class(config_class(**SHAPE, attn_implementation=TRAINING_ATTENTION))
    for parameter_name, parameter in model.named_parameters():
        if "embed" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.15)
        elif parameter.ndim == 2:
            residual = parameter_name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = 1 / math.sqrt(2 * LAYERS) if residual else 1.0
            torch.nn.init.normal_(parameter, std=scale / math.sqrt(parameter.shape[1]))
    return model
