"""Inputs for compact_kv, the same for tests and benchmarks.

The pool is full of distinct numbers and NaNs with distinct payloads; the first blocks of every
sequence are shared, and table entries under which nothing moves name no block at all, so that any
use of them shows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.checks import FP8

NO_BLOCK = 2**30


@dataclass(frozen=True)
class Case:
    """Sequences of `lengths` slots that keep `count`; the first `shared` blocks are common."""

    name: str
    lengths: tuple[int, ...]
    count: int
    shared: int = 0
    layers: int = 2
    kv_heads: int = 2
    head_dim: int = 32
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    kept_dtype: torch.dtype = torch.int32
    mass: bool = True
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def bits(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random bit patterns as floats: every value, infinities and NaNs of any payload."""
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32}[dtype.itemsize]
    limits = torch.iinfo(integer)
    return torch.randint(
        limits.min,
        limits.max + 1,
        shape,
        dtype=integer,
        generator=generator,
        device=generator.device,
    ).view(dtype)


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `compact_kv`."""
    generator = torch.Generator(device).manual_seed(case.seed)
    own = [-(-length // case.block_size) - case.shared for length in case.lengths]
    blocks = 1 + case.shared + sum(own)
    order = 1 + torch.randperm(blocks - 1, generator=torch.Generator().manual_seed(case.seed))
    tables = torch.full((len(own), case.shared + max(own) + 1), NO_BLOCK)
    taken = case.shared
    for row, extra in enumerate(own):
        tables[row, case.shared : case.shared + extra] = order[taken : taken + extra]
        taken += extra
    pinned = case.shared * case.block_size
    kept = torch.empty(len(own), case.layers, case.kv_heads, case.count, dtype=torch.int64)
    for row, length in enumerate(case.lengths):
        kept[row] = torch.arange(case.count)
        keep = min(case.count, length) - pinned
        draw = torch.rand(
            case.layers, case.kv_heads, length - pinned, generator=generator, device=device
        )
        chosen = draw.topk(keep, dim=-1).indices.sort(dim=-1).values
        kept[row, :, :, pinned : pinned + keep] = pinned + chosen.cpu()
    shape = (case.layers, blocks, case.kv_heads, case.block_size)
    positions = torch.randint(0, 2**31 - 1, shape, generator=generator, device=device)
    return {
        "keys": bits((*shape, case.head_dim), case.dtype, generator),
        "values": bits((*shape, case.head_dim), case.dtype, generator),
        "slot_positions": positions.int(),
        "block_tables": tables.int().to(device),
        "kept": kept.to(case.kept_dtype).to(device),
        "slot_mass": bits(shape, torch.float32, generator) if case.mass else None,
    }


BF16 = torch.bfloat16
CASES = (
    Case("one", (63,), count=40),
    Case("shared-prefix", (111, 64, 80), count=50, shared=2, kept_dtype=torch.int64),
    Case("bf16-dim80", (70, 33), count=33, dtype=BF16, head_dim=80, mass=False),
    Case("f16-dim128", (40,), count=17, shared=1, dtype=torch.float16, head_dim=128, layers=1),
    Case("shorter-than-count", (30, 80), count=48, kv_heads=3),
    Case("nothing-moves", (32, 20), count=20, shared=1, mass=False),
    Case("keep-one", (16, 1), count=1, head_dim=64),
    Case("block5", (23, 40), count=14, block_size=5, shared=1),
    Case("fp8", (111, 64, 80), count=50, shared=2, dtype=FP8),
    Case("fp8-dim80", (70, 33), count=33, dtype=FP8, head_dim=80, kept_dtype=torch.int64),
)
BENCHMARKS = (
    Case("pocket-64x512", (512,) * 64, count=480, layers=4),
    Case(
        "llama8b-8x2500",
        (2500,) * 8,
        count=2372,
        layers=32,
        kv_heads=8,
        head_dim=128,
        dtype=BF16,
        mass=False,
    ),
)
