"""The model that is calibrated, loaded as plain transformers with an attention that can be watched.

Watching costs nothing while nobody does: the attention is torch's own, and whoever watches is shown
queries, keys and values of each layer on the way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from clients.errors import DataError
from engine.kv_pool import KvShape
from engine.loader import adopt_model

ATTENTION_NAME = "sluice_calibration"


@dataclass(frozen=True)
class Attended:
    """One layer's attention over one trace."""

    layer: int
    queries: torch.Tensor  # [heads, tokens, head_dim], rotary applied
    keys: torch.Tensor  # [kv_heads, tokens, head_dim], rotary applied
    values: torch.Tensor  # [kv_heads, tokens, head_dim]
    visible: torch.Tensor | None  # [tokens, tokens] bool or added; None: all that is not newer
    scale: float


Watcher = Callable[[Attended], None]
_watcher: Watcher | None = None


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Shows `watcher` every layer of the forward passes inside; of one trace each."""
    global _watcher
    _watcher = watcher
    try:
        yield
    finally:
        _watcher = None


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers' sdpa attention; shapes [rows, heads, tokens, head_dim]."""
    if _watcher is not None:
        visible = None if attention_mask is None else attention_mask[0, 0]
        scale = settings.get("scaling") or query.shape[-1] ** -0.5
        layer: int = module.layer_idx  # type: ignore[assignment]
        _watcher(Attended(layer, query[0], key[0], value[0], visible, scale))
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    return output, None


@dataclass(frozen=True)
class Subject:
    """A model, its tokenizer, and what the engine knows of it."""

    name: str  # as it was asked for
    model: Any
    tokenizer: Any
    shape: KvShape
    frequencies: torch.Tensor | None  # rotary, as CacheView has them

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)


def register_attention() -> str:
    """Makes transformers know the attention; returns its name."""
    AttentionInterface.register(ATTENTION_NAME, _attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    return ATTENTION_NAME


def load_subject(name: str) -> Subject:
    """Loads a local directory or hub id, safetensors only; on a GPU where there is one.

    Raises:
        DataError: there is no such model.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if Path(name).exists() and not (Path(name) / "config.json").exists():
        raise DataError(f"{name} holds no model: there is no config.json in it")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            dtype="auto" if device == "cuda" else torch.float32,
            attn_implementation=register_attention(),
            trust_remote_code=False,
            use_safetensors=True,
        ).to(device)
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load the model {name}: {error}") from error
    return make_subject(name, model, tokenizer)


def make_subject(name: str, model: Any, tokenizer: Any) -> Subject:
    """A subject from a model in memory that has our attention."""
    loaded = adopt_model(model, None)
    return Subject(name, model, tokenizer, loaded.shape, loaded.frequencies)
