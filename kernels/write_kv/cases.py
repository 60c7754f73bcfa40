"""Inputs for write_kv, the same for tests and benchmarks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.checks import FP8
from kernels.paged_decode.cases import head_scales


@dataclass(frozen=True)
class Case:
    """One step's tokens; `layout` is that of key and value, `padding` rows have slot -1."""

    name: str
    tokens: int
    kv_heads: int = 2
    head_dim: int = 32
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    layout: str = (
        "contiguous"  # or "transposed" from [heads, tokens, dim], or "fused": a slice of one matrix
    )
    padding: int = 0
    mass: bool = True
    fp8: bool = False  # the pool is float8_e4m3fn; `dtype` is that of key and value
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def strided(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Key and value, [tokens, kv_heads, head_dim] each, in the case's memory layout."""
    device, dim, heads = generator.device, case.head_dim, case.kv_heads
    if case.layout == "fused":
        both = torch.randn(case.tokens, 2 * heads * dim + 8, generator=generator, device=device)
        rows = both.to(case.dtype)[:, : 2 * heads * dim].view(case.tokens, 2, heads, dim)
        return rows[:, 0], rows[:, 1]
    both = torch.randn(2, heads, case.tokens, dim, generator=generator, device=device).to(
        case.dtype
    )
    key, value = both.transpose(1, 2)
    return (key, value) if case.layout == "transposed" else (key.contiguous(), value.contiguous())


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `write_kv`; the pool starts as NaN, positions as -1, mass as 7."""
    generator = torch.Generator(device).manual_seed(case.seed)
    key, value = strided(case, generator)
    blocks = case.tokens // case.block_size + 3
    shape = (blocks, case.kv_heads, case.block_size)
    slots = torch.randperm(blocks * case.block_size, generator=generator, device=device)[
        : case.tokens
    ]
    if case.padding:
        slots[-case.padding :] = -1
    positions = torch.randint(0, 100_000, (case.tokens,), generator=generator, device=device)
    scales = head_scales(case.kv_heads, device) if case.fp8 else (None, None)
    stored = FP8 if case.fp8 else case.dtype
    return {
        "key": key,
        "value": value,
        "positions": positions.int(),
        "slots": slots,
        "keys": torch.full((*shape, case.head_dim), torch.nan, dtype=stored, device=device),
        "values": torch.full((*shape, case.head_dim), torch.nan, dtype=stored, device=device),
        "slot_positions": torch.full(shape, -1, dtype=torch.int32, device=device),
        "slot_mass": torch.full(shape, 7.0, device=device) if case.mass else None,
        "key_scales": scales[0],
        "value_scales": scales[1],
    }


BF16 = torch.bfloat16
CASES = (
    Case("one", 1),
    Case("contiguous", 17, padding=3),
    Case("transposed", 15, layout="transposed", kv_heads=3, mass=False),
    Case("fused-dim80", 33, layout="fused", head_dim=80, block_size=5),
    Case("bf16", 16, layout="transposed", dtype=BF16, head_dim=128),
    Case("f16-fused", 20, layout="fused", dtype=torch.float16, kv_heads=1, mass=False, padding=20),
    Case("empty", 0),
    Case("fp8", 17, padding=3, kv_heads=3, fp8=True),
    Case("fp8-fused-dim80", 33, layout="fused", head_dim=80, block_size=5, mass=False, fp8=True),
    Case("fp8-bf16", 16, layout="transposed", dtype=BF16, head_dim=128, fp8=True),
    Case("fp8-f16", 20, layout="fused", dtype=torch.float16, kv_heads=1, fp8=True),
    Case("fp8-empty", 0, fp8=True),
)
BENCHMARKS = (
    Case("pocket-64", 64, layout="transposed", mass=False),
    Case("llama8b-256", 256, kv_heads=8, head_dim=128, dtype=BF16, layout="fused", mass=False),
    Case(
        "llama8b-256-fp8",
        256,
        kv_heads=8,
        head_dim=128,
        dtype=BF16,
        layout="fused",
        mass=False,
        fp8=True,
    ),
    Case("llama8b-8192", 8192, kv_heads=8, head_dim=128, dtype=BF16, layout="fused", mass=False),
)
