"""Inputs for rms_norm, the same for tests and benchmarks."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """Rows of hidden lie `gap` numbers apart, those of the residual `gap + 1`."""

    name: str
    tokens: int
    width: int
    dtype: torch.dtype = torch.float32
    residual: bool = False
    gap: int = 0
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `rms_norm`."""
    generator = torch.Generator(device).manual_seed(case.seed)

    def rows(gap: int) -> torch.Tensor:
        shape = (case.tokens, case.width + gap)
        numbers = torch.randn(shape, generator=generator, device=device) * 2
        return numbers.to(case.dtype)[:, : case.width]

    weight = torch.rand(case.width, generator=generator, device=device) + 0.5
    return {
        "hidden": rows(case.gap),
        "weight": weight.to(case.dtype),
        "eps": 1e-6,
        "residual": rows(case.gap + 1 if case.gap else 0) if case.residual else None,
    }


BF16 = torch.bfloat16
CASES = (
    Case("one", 1, 128),
    Case("narrow", 3, 1),
    Case("pocket", 64, 128, residual=True),
    Case("odd", 7, 131, gap=5),
    Case("odd-residual", 5, 77, gap=3, residual=True),
    Case("bf16", 9, 96, BF16),
    Case("bf16-residual", 6, 300, BF16, residual=True, gap=4),
    Case("f16-residual", 6, 65, torch.float16, residual=True),
    Case("widest", 2, 8192, BF16, residual=True),
    Case("shared", 70, 4096, residual=True),  # enough for several threads
    Case("empty", 0, 128, residual=True),
)
BENCHMARKS = tuple(
    Case(f"{name}-{tokens}", tokens, width, dtype, residual=True)
    for name, width, dtype in (
        ("pocket", 128, torch.float32),
        ("llama8b", 4096, BF16),
        ("qwen7b", 3584, BF16),
    )
    for tokens in (64, 256)
)
