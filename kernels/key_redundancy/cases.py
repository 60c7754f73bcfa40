"""Inputs for key_redundancy, the same for tests and benchmarks.

About half of the keys are noisy copies of an earlier one, so that near-duplicates come in families;
what lies between one cache's tokens and the next's is NaN.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """Some caches; one form of redundancy."""

    name: str
    caches: int
    tokens: int
    head_dim: int = 32
    excused_above: float | None = None
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `key_redundancy`."""
    generator = torch.Generator(device).manual_seed(case.seed)
    shape = (case.caches, case.tokens)
    sources = torch.rand(shape, generator=generator, device=device)
    sources = (sources * torch.arange(case.tokens, device=device)).long()  # of copies: older keys
    copies = torch.rand(shape, generator=generator, device=device) < 0.5
    sources = sources.where(copies, torch.arange(case.tokens, device=device))
    keys = torch.randn(*shape, case.head_dim, generator=generator, device=device)
    noise = torch.randn(keys.shape, generator=generator, device=device)
    keys = keys.gather(1, sources[..., None].expand_as(keys)) + 0.4 * noise
    buffer = torch.full((case.caches, case.tokens + 5, case.head_dim), torch.nan, device=device)
    buffer[:, : case.tokens] = keys
    return {
        "keys": buffer.to(case.dtype)[:, : case.tokens],
        "excused_above": case.excused_above,
    }


BF16 = torch.bfloat16
CASES = (
    Case("nearest", 8, 97),
    Case("nearest-one-token", 3, 1),
    Case("nearest-dim80", 2, 70, head_dim=80),
    Case("nearest-dim128-bf16", 2, 130, head_dim=128, dtype=BF16),
    Case("nearest-dim6", 5, 18, head_dim=6),
    Case("mean", 8, 97, excused_above=0.5),
    Case("mean-one-token", 3, 1, excused_above=0.5),
    Case("mean-everything-alike", 2, 40, head_dim=7, excused_above=0.0),
    Case("mean-nothing-alike", 2, 40, excused_above=1.0),
    Case("mean-dim128-bf16", 2, 130, head_dim=128, excused_above=0.5, dtype=BF16),
    Case("mean-f16", 2, 66, head_dim=64, excused_above=0.3, dtype=torch.float16),
)
BENCHMARKS = (
    Case("pocket-4x128", 32, 128),
    Case("pocket-4x128-mean", 32, 128, excused_above=0.5),
    Case("llama8b-2x2500", 512, 2500, head_dim=128, dtype=BF16),
)
