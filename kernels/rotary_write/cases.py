"""Inputs for rotary_write, the same for tests and benchmarks."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """One step's tokens; `padding` rows have slot -1, rows lie `gap` numbers apart."""

    name: str
    tokens: int
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    rotary_dim: int = 32
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    wide_angles: bool = False  # cos and sin in float32, whatever the dtype
    norms: bool = False
    gap: int = 0
    padding: int = 0
    mass: bool = True
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `rotary_write`; the pool starts as NaN, positions as -1, mass as 7."""
    generator = torch.Generator(device).manual_seed(case.seed)
    dtype, dim = case.dtype, case.head_dim

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    width = (case.heads + 2 * case.kv_heads) * dim
    positions = torch.randint(0, 30_000, (case.tokens,), generator=generator, device=device)
    exponents = torch.arange(0, case.rotary_dim, 2, device=device) / case.rotary_dim
    angles = (positions[:, None] * 10_000.0**-exponents).repeat(1, 2)
    angles = torch.nn.functional.pad(angles, (0, case.gap))
    angle_dtype = torch.float32 if case.wide_angles else dtype
    blocks = case.tokens // case.block_size + 3
    shape = (blocks, case.kv_heads, case.block_size)
    slots = torch.randperm(blocks * case.block_size, generator=generator, device=device)
    slots = slots[: case.tokens]
    if case.padding:
        slots[-case.padding :] = -1
    return {
        "qkv": random(case.tokens, width + case.gap).to(dtype)[:, :width],
        "cos": angles.cos().to(angle_dtype)[:, : case.rotary_dim],
        "sin": angles.sin().to(angle_dtype)[:, : case.rotary_dim],
        "positions": positions.int(),
        "slots": slots,
        "keys": torch.full((*shape, dim), torch.nan, dtype=dtype, device=device),
        "values": torch.full((*shape, dim), torch.nan, dtype=dtype, device=device),
        "slot_positions": torch.full(shape, -1, dtype=torch.int32, device=device),
        "heads": case.heads,
        "query_norm": (random(dim) + 1).to(dtype) if case.norms else None,
        "key_norm": (random(dim) + 1).to(dtype) if case.norms else None,
        "eps": 1e-6,
        "slot_mass": torch.full(shape, 7.0, device=device) if case.mass else None,
    }


BF16 = torch.bfloat16
CASES = (
    Case("one", 1),
    Case("pocket", 64, mass=False),
    Case("odd", 17, heads=6, kv_heads=3, gap=5, padding=3),
    Case("partial", 9, head_dim=48, rotary_dim=20, block_size=5),
    Case("norms", 13, norms=True, padding=1),
    Case("partial-norms", 7, heads=7, kv_heads=1, head_dim=40, rotary_dim=2, norms=True, gap=3),
    Case("bf16", 16, head_dim=128, rotary_dim=128, dtype=BF16),
    Case("bf16-norms", 11, dtype=BF16, norms=True, mass=False, gap=8),
    Case("bf16-wide-angles", 12, dtype=BF16, wide_angles=True, rotary_dim=16),
    Case("f16", 10, heads=2, dtype=torch.float16, padding=10),
    Case("shared", 12, 128, 32, 128, 128, norms=True),  # enough for several threads
    Case("empty", 0),
)
BENCHMARKS = tuple(
    Case(f"{name}-{tokens}", tokens, heads, kv_heads, dim, dim, dtype=dtype, mass=False)
    for name, heads, kv_heads, dim, dtype in (
        ("pocket", 4, 2, 32, torch.float32),
        ("llama8b", 32, 8, 128, BF16),
        ("qwen7b", 28, 4, 128, BF16),
    )
    for tokens in (64, 256)
)
