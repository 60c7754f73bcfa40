"""Rotary frequencies of a loaded model, measured on its own rotary module.

Reading cosine and sine at position 1 rather than configuration fields covers every scaling of
frequencies that does not depend on the length (llama3, linear, ...), and per-layer bases (Gemma 3).
"""

import sys
from typing import Any

import torch

from engine.kv_pool import KvShape

PROBES = (1, 2, 1000)  # positions; the later ones prove that angles grow linearly
TOLERANCE = 1e-3  # of cosine and sine, float32 at position 1000


def rotary_frequencies(model: Any, shape: KvShape) -> torch.Tensor | None:
    """Radians per position by which halves (i, i + head_dim / 2) of queries and keys turn.

    Returns:
        [layers, head_dim / 2] float64 on the model's device; None where the model has no rotary
        module of that kind, or turns only a part of each head, other pairs, or not linearly.
    """
    rotary = getattr(model.base_model, "rotary_emb", None)
    apply = getattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", None)
    if rotary is None or apply is None:
        return None
    types = getattr(model.config.get_text_config(), "layer_types", None)
    by_type: dict[str | None, torch.Tensor] = {}
    layers = []
    for layer in range(shape.layers):
        kind = types[layer] if types and _takes_type(rotary) else None
        if kind not in by_type:
            measured = _measure(rotary, apply, kind, shape, model.device)
            if measured is None:
                return None
            by_type[kind] = measured
        layers.append(by_type[kind])
    return torch.stack(layers)


def _takes_type(rotary: torch.nn.Module) -> bool:
    """Whether the module holds several bases, and is told by name which to use."""
    return not hasattr(rotary, "inv_freq")


def _measure(
    rotary: torch.nn.Module,
    apply: Any,
    kind: str | None,
    shape: KvShape,
    device: torch.device,
) -> torch.Tensor | None:
    """[head_dim / 2] float64, or None."""
    positions = torch.tensor([PROBES], device=device)
    dtype_of = torch.zeros((), dtype=torch.float32, device=device)
    cosine, sine = (
        rotary(dtype_of, positions) if kind is None else rotary(dtype_of, positions, kind)
    )
    if cosine.shape != (1, len(PROBES), shape.head_dim) or not _turns_halves(apply, cosine, sine):
        return None
    half = shape.head_dim // 2
    cosine, sine = cosine[0, :, :half].double(), sine[0, :, :half].double()  # [probes, half]
    frequencies = torch.atan2(sine[0], cosine[0])
    length = torch.hypot(sine[0], cosine[0])  # yarn scales queries and keys as well
    angles = frequencies * torch.tensor(PROBES, device=device)[:, None]
    straight = torch.allclose(cosine, length * angles.cos(), atol=TOLERANCE)
    straight &= torch.allclose(sine, length * angles.sin(), atol=TOLERANCE)
    return frequencies if straight and bool((frequencies > 0).all()) else None


def _turns_halves(apply: Any, cosine: torch.Tensor, sine: torch.Tensor) -> bool:
    """Whether the model turns i with i + head_dim / 2; some turn neighbours (Cohere, Ernie)."""
    half = cosine.shape[-1] // 2
    probe = torch.arange(1.0, 2 * half + 1, device=cosine.device).expand(1, 1, *cosine.shape[1:])
    turned, _ = apply(probe, probe, cosine, sine)
    first, second = probe[..., :half], probe[..., half:]
    c, s = cosine[:, None, :, :half], sine[:, None, :, :half]
    expected = torch.cat([first * c - second * s, second * c + first * s], dim=-1)
    return torch.allclose(turned, expected, atol=TOLERANCE)
