"""Models by their shape, made in memory: speed depends on sizes, not on what weights are worth."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

TRACE = 16_384  # tokens of one whole request


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and the work that it is measured with."""

    name: str
    config: Callable[..., Any]  # a transformers configuration class
    sizes: dict[str, int]
    dtype: torch.dtype = torch.bfloat16
    trace: int = TRACE  # tokens, prompt included; half of it is held where nothing is evicted
    budgets: tuple[int, ...] = (2500, 5000, 4000, 3000, 3500, 4500)  # in this order
    kv_blocks: int | None = None  # in the pool; None: by the memory that is free
    steps: int = 128  # timed; a default reclaim, so each output is evicted once meanwhile
    peer_prompt: int = 512  # tokens of a request to transformers


LLAMA_8B = Shape(
    "llama-8b",
    LlamaConfig,
    {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
    },
)
QWEN_7B = Shape(
    "qwen-7b",
    Qwen2Config,
    {
        "num_hidden_layers": 28,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152_064,
    },
)
TINY = Shape(
    "tiny",
    LlamaConfig,
    {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
    },
    dtype=torch.float32,
    trace=512,
    budgets=(64, 96),
    kv_blocks=64,
    steps=16,
    peer_prompt=16,
)
SHAPES = {shape.name: shape for shape in (LLAMA_8B, QWEN_7B, TINY)}


def make_model(shape: Shape, device: torch.device, attention: str) -> Any:
    """The model with random weights, made on the device; `attention` by transformers' names."""
    config = shape.config(
        **shape.sizes, max_position_embeddings=shape.trace, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(
            config, dtype=shape.dtype, attn_implementation=attention
        )
    return model.eval().requires_grad_(False)


def step_weight_bytes(model: Any) -> int:
    """Bytes of weights that one step reads: all but the input embeddings, of which it reads rows.

    Of a stock model, before an engine has taken it.
    """
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    rows = model.get_input_embeddings().weight
    return total - rows.numel() * rows.element_size()
