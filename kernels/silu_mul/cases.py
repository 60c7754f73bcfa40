"""Inputs for silu_mul, the same for tests and benchmarks."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """Rows lie `gap` numbers apart; `spread` is the standard deviation of the numbers."""

    name: str
    tokens: int
    width: int
    dtype: torch.dtype = torch.float32
    gap: int = 0
    spread: float = 2.0
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `silu_mul`."""
    generator = torch.Generator(device).manual_seed(case.seed)
    shape = (case.tokens, 2 * case.width + case.gap)
    numbers = torch.randn(shape, generator=generator, device=device) * case.spread
    return {"gate_up": numbers.to(case.dtype)[:, : 2 * case.width]}


BF16 = torch.bfloat16
CASES = (
    Case("one", 1, 384),
    Case("narrow", 3, 1),
    Case("odd", 7, 131, gap=5),
    Case("far", 5, 100, spread=60.0),  # silu saturates
    Case("bf16", 9, 96, BF16),
    Case("bf16-odd", 4, 333, BF16, gap=3),
    Case("f16", 6, 65, torch.float16),
    Case("pieces", 2, 5000, BF16),
    Case("shared", 64, 4096),  # enough for several threads
    Case("empty", 0, 128),
)
BENCHMARKS = tuple(
    Case(f"{name}-{tokens}", tokens, width, dtype)
    for name, width, dtype in (
        ("pocket", 384, torch.float32),
        ("llama8b", 14336, BF16),
        ("qwen7b", 18944, BF16),
    )
    for tokens in (64, 256)
)
