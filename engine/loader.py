"""Loads a stock transformers model with our attention in it."""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as library_logs

from engine.attention import register_attention
from engine.config import EngineConfig
from engine.kv_pool import KvShape
from engine.logs import take_over
from engine.rotary import rotary_frequencies

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """The model and what the engine needs to know of it."""

    model: torch.nn.Module
    shape: KvShape
    scale: float  # of query · key, as its attention modules have it
    architecture: str
    vocabulary_size: int
    max_sequence_tokens: int
    eos_token_ids: list[int]
    frequencies: torch.Tensor | None  # rotary, as CacheView has them


def load_model(config: EngineConfig, device: torch.device) -> LoadedModel:
    """Loads `config.model`, a local directory or a hub id: safetensors only, no remote code.

    Raises:
        OSError: there is no such model, or it has no safetensors weights.
        ValueError: its attention does not go through transformers' AttentionInterface.
    """
    take_over("transformers", "huggingface_hub")
    if not sys.stderr.isatty():  # a bar would break up the lines of a log
        library_logs.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        config.model,
        dtype=dtype_of(config, device),
        attn_implementation=register_attention(),
        trust_remote_code=False,
        use_safetensors=True,
    )
    return adopt_model(model.to(device), config.max_sequence_tokens)


def adopt_model(model: Any, max_sequence_tokens: int | None) -> LoadedModel:
    """Describes a model that is already in memory, with our attention registered in it."""
    model.eval().requires_grad_(False)
    text = model.config.get_text_config()
    shape = kv_shape(text, model.dtype)
    return LoadedModel(
        model=model,
        shape=shape,
        scale=_scale(model, shape),
        architecture=type(model).__name__,
        vocabulary_size=text.vocab_size,
        max_sequence_tokens=sequence_limit(text, max_sequence_tokens),
        eos_token_ids=_end_tokens(model),
        frequencies=rotary_frequencies(model, shape),
    )


def kv_shape(text: Any, dtype: torch.dtype) -> KvShape:
    """The cache of a model, from its text configuration."""
    heads = text.num_attention_heads
    return KvShape(
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        hidden_size=text.hidden_size,
        dtype=dtype,
    )


def sequence_limit(text: Any, asked: int | None) -> int:
    """Tokens of the longest sequence: what was asked, up to the model's own limit."""
    limit: int = getattr(text, "max_position_embeddings", None) or 32768
    return min(asked or limit, limit)


def dtype_of(config: EngineConfig, device: torch.device) -> torch.dtype | str:
    """The type to load the model in; "auto" is the checkpoint's.

    Raises:
        ValueError: the configuration names another type.
    """
    if config.dtype != "auto":
        if config.dtype not in DTYPES:
            allowed = ", ".join(["auto", *DTYPES])
            raise ValueError(f"dtype is {config.dtype!r}; allowed are {allowed}")
        return DTYPES[config.dtype]
    # On CPUs the fast kernels are float32; elsewhere the checkpoint decides.
    return torch.float32 if device.type == "cpu" else "auto"


def _scale(model: Any, shape: KvShape) -> float:
    scales = {
        m.scaling for m in model.modules() if hasattr(m, "scaling") and hasattr(m, "layer_idx")
    }
    return float(scales.pop()) if len(scales) == 1 else shape.head_dim**-0.5


def _end_tokens(model: Any) -> list[int]:
    for source in (getattr(model, "generation_config", None), model.config):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return [ids] if isinstance(ids, int) else list(ids)
    return []
