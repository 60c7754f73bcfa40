"""Inputs for trigonometric_score, the same for tests and benchmarks.

Keys are drawn before their rotation and rotated in float64; what lies between one cache's tokens
and the next's is NaN. Frequencies are those of rotary embeddings, another base in each layer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Sequences that stand at `next_positions`."""

    name: str
    next_positions: tuple[int, ...]
    tokens: int = 33
    layers: int = 2
    kv_heads: int = 2
    group: int = 2
    head_dim: int = 32
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def rotated(vectors: Tensor, angles: Tensor) -> Tensor:
    """[..., head_dim] with each number's halves turned by `angles`, [..., head_dim / 2]."""
    first, second = vectors.chunk(2, dim=-1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def draw(case: Case, device: str = "cpu") -> tuple[dict[str, Any], Tensor]:
    """Keyword arguments for `trigonometric_score`, and where the keys are.

    The positions, [sequences, layers, kv_heads, tokens] int64, are on the CPU.
    """
    generator = torch.Generator().manual_seed(case.seed)
    shape = (len(case.next_positions), case.layers, case.kv_heads, case.tokens)
    unrotated = torch.randn(*shape, case.head_dim, generator=generator, dtype=torch.float64)
    ends = torch.tensor(case.next_positions)
    back = torch.randint(1, 4, shape, generator=generator).flip(-1).cumsum(-1).flip(-1)
    positions = (ends[:, None, None, None] - back).clamp(min=0)
    base = torch.tensor([10_000.0, 1e6, 5e5, 150.0], dtype=torch.float64)[: case.layers, None]
    power = torch.arange(case.head_dim // 2, dtype=torch.float64) * 2 / case.head_dim
    frequencies = base**-power
    angles = positions[..., None] * frequencies[None, :, None, None]
    keys = rotated(unrotated, angles).to(case.dtype)
    buffer = torch.full((*shape[:3], case.tokens + 3, case.head_dim), torch.nan, dtype=case.dtype)
    buffer[:, :, :, : case.tokens] = keys
    heads = (case.layers, case.kv_heads * case.group)
    mean = torch.randn(*heads, case.head_dim, generator=generator)
    length = torch.rand(*heads, case.head_dim // 2, generator=generator) * 2
    inputs = {
        "keys": buffer.to(device)[:, :, :, : case.tokens],
        "next_positions": ends.to(device),
        "query_mean": mean.to(device),
        "query_length": length.to(device),
        "frequencies": frequencies.to(device),
    }
    return inputs, positions


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `trigonometric_score`."""
    return draw(case, device)[0]


BF16 = torch.bfloat16
CASES = (
    Case("pocket", (100, 350, 260)),
    Case("far", (100_003, 31_999), tokens=40),
    Case("start", (1, 2, 40), tokens=1, kv_heads=4, group=4),
    Case("group7-dim128-bf16", (2500,), group=7, head_dim=128, dtype=BF16, tokens=70),
    Case("group1-dim80", (90, 700), group=1, head_dim=80, tokens=17),
    Case("three-kv-heads-dim6", (64, 65), kv_heads=3, group=3, head_dim=6, layers=4),
    Case("f16-dim64", (5000,), group=4, head_dim=64, dtype=torch.float16, tokens=129),
)
BENCHMARKS = (
    Case("pocket-4x128", (400,) * 4, tokens=128, layers=4),
    Case("llama8b-2x2500", (9000,) * 2, tokens=2500, layers=4, kv_heads=8, group=4, head_dim=128),
)
