"""Inputs for paged_decode, the same for tests and benchmarks, and the paged cache other operations
start from.

Everything that must not be read is poisoned: slots past a sequence's length hold NaN, block 0
    belongs to nobody and is all NaN, and table entries past the needed ones name it.

An fp8 pool has other scales in each head, for keys and for values.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.checks import FP8


@dataclass(frozen=True)
class Case:
    """One batch of sequences; `lengths` are KV entries held, the query's own included."""

    name: str
    lengths: tuple[int, ...]
    kv_heads: int = 2
    group: int = 2
    head_dim: int = 32
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    window: int | None = None
    fp8: bool = False  # the pool is float8_e4m3fn; `dtype` is the query's
    seed: int = 0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class PagedCache:
    """One layer's pool with sequences in it; the fields are the arguments of the same name."""

    keys: Tensor
    values: Tensor
    slot_positions: Tensor
    block_tables: Tensor
    lengths: Tensor
    next_positions: Tensor  # [sequences] int32, the logical position after the newest slot's
    key_scales: Tensor | None
    value_scales: Tensor | None


def head_scales(kv_heads: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Scales of keys and of values, [kv_heads] each, that no other head shares.

    Numbers of a normal distribution then lie within a fifth of the largest that fp8 holds.
    """
    head = torch.arange(kv_heads, device=device, dtype=torch.float32)
    return 0.051 + 0.013 * head, 0.083 - 0.007 * head


def poisoned(
    case: Case, shape: tuple[int, ...], unused: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Keys and values of normal numbers, NaN of either sign where `unused`; and their scales."""
    device = generator.device
    keys = torch.randn(shape, generator=generator, device=device).to(case.dtype)
    values = torch.randn(shape, generator=generator, device=device).to(case.dtype)
    keys.masked_fill_(unused, torch.nan)
    values.masked_fill_(unused, -torch.nan)
    if not case.fp8:
        return keys, values, None, None
    scales = head_scales(case.kv_heads, device)
    return to_fp8(keys, scales[0]), to_fp8(values, scales[1]), *scales


def to_fp8(numbers: Tensor, scales: Tensor) -> Tensor:
    """`numbers`, [blocks, kv_heads, block_size, head_dim], as an fp8 pool holds them."""
    return (numbers.float() / scales[:, None, None]).to(FP8)


def paged_cache(case: Case, fresh: Tensor, device: str = "cpu") -> PagedCache:
    """A pool in which each sequence has lost about every other token, different ones in each head.

    Args:
        case: sizes, dtype and seed; `case.lengths` of the sequences.
        fresh: [sequences] int64 on the CPU, how many of the newest slots hold adjacent positions.
        device: where the tensors go.
    """
    generator = torch.Generator(device).manual_seed(case.seed)
    held = torch.tensor(case.lengths)  # [sequences]
    needed = -(-held // case.block_size)
    width = int(needed.max()) + 2
    order = 1 + torch.randperm(
        int(needed.sum()), generator=torch.Generator().manual_seed(case.seed)
    )
    tables = torch.zeros(len(held), width, dtype=torch.int32)
    tables[torch.arange(width) < needed[:, None]] = order.int()
    shape = (len(order) + 1, case.kv_heads, case.block_size, case.head_dim)

    slot = torch.arange(width * case.block_size).view(width, case.block_size)
    inside = slot < held[:, None, None]  # [sequences, width, block_size]
    used = torch.zeros(shape[0], case.block_size, dtype=torch.bool)
    used[tables.long()[inside.any(-1)]] = inside[inside.any(-1)]
    keys, values, *scales = poisoned(case, shape, ~used[:, None, :, None].to(device), generator)

    old = (held - fresh)[:, None, None, None]
    index = slot[None, None]  # [1, 1, width, block_size]
    coin = torch.randint(
        0, 2, (len(held), case.kv_heads, *slot.shape), generator=generator, device=device
    )
    thinned = 2 * index + coin.cpu()  # one of two neighbours survived
    positions = torch.where(index < old, thinned, old + index)
    slot_positions = torch.full(shape[:-1], 2**30, dtype=torch.int32)
    some = inside.any(-1)
    slot_positions[tables.long()[some]] = positions.transpose(1, 2)[some].int()
    return PagedCache(
        keys,
        values,
        slot_positions.to(device),
        tables.to(device),
        held.int().to(device),
        (2 * held - fresh).int().to(device),
        *scales,
    )


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `paged_decode`."""
    cache = paged_cache(case, torch.ones(len(case.lengths), dtype=torch.int64), device)
    generator = torch.Generator(device).manual_seed(case.seed + 1)
    shape = (len(case.lengths), case.kv_heads * case.group, case.head_dim)
    windowed = case.window is not None
    return {
        "query": torch.randn(shape, generator=generator, device=device).to(case.dtype),
        "keys": cache.keys,
        "values": cache.values,
        "block_tables": cache.block_tables,
        "lengths": cache.lengths,
        "scale": case.head_dim**-0.5,
        "window": case.window,
        "slot_positions": cache.slot_positions if windowed else None,
        "query_positions": cache.next_positions - 1 if windowed else None,
        "key_scales": cache.key_scales,
        "value_scales": cache.value_scales,
    }


BF16 = torch.bfloat16
CASES = (
    Case("pocket", (1, 15, 16, 17, 63, 111)),
    Case("pocket-bf16", (1, 15, 16, 17, 63, 111), dtype=BF16),
    Case("padded-rows", (0, 5, 0, 33), group=4, head_dim=64),
    Case("group1-dim80", (17, 64), group=1, head_dim=80, dtype=BF16),
    Case("group7-dim128", (63, 16), kv_heads=1, group=7, head_dim=128, dtype=BF16),
    Case("group8-dim80", (31, 1), group=8, head_dim=80),
    Case("group17-dim16", (40,), kv_heads=1, group=17, head_dim=16),
    Case("three-kv-heads", (49, 2), kv_heads=3, group=3, head_dim=64, dtype=torch.float16),
    Case("dim24", (1, 17, 40), head_dim=24),
    Case("block5", (1, 23, 40), block_size=5),
    Case("block32", (1, 40, 64), block_size=32, group=1),
    Case("window", (1, 7, 63, 111, 0), window=24),
    Case("window1-bf16", (1, 20), window=1, dtype=BF16),
    Case("window-wide", (17, 33), window=4096, group=4, head_dim=64),
    Case("splits", (1100, 512, 513), kv_heads=1, group=2),
    Case("splits-window", (1100, 512), kv_heads=1, group=4, window=700, dtype=BF16),
    Case("fp8", (1, 15, 16, 17, 63, 111), fp8=True),
    Case("fp8-bf16", (0, 33, 20), kv_heads=3, group=7, head_dim=64, dtype=BF16, fp8=True),
    Case("fp8-f16-dim80", (17, 64), head_dim=80, block_size=5, dtype=torch.float16, fp8=True),
    Case("fp8-window", (1, 7, 63, 111, 0), window=24, fp8=True),
    Case("fp8-dim24", (9, 40), head_dim=24, block_size=20, fp8=True),
    Case("fp8-splits", (1100, 512, 513), kv_heads=1, dtype=BF16, fp8=True),
)
BENCHMARKS = (
    Case("pocket-64x144", (144,) * 64),
    Case("pocket-64x272", (272,) * 64),
    Case("llama8b-64x2500", (2500,) * 64, kv_heads=8, group=4, head_dim=128, dtype=BF16),
    Case("llama8b-256x2500", (2500,) * 256, kv_heads=8, group=4, head_dim=128, dtype=BF16),
    Case("llama8b-64x5000", (5000,) * 64, kv_heads=8, group=4, head_dim=128, dtype=BF16),
    Case(
        "llama8b-64x2500-fp8",
        (2500,) * 64,
        kv_heads=8,
        group=4,
        head_dim=128,
        dtype=BF16,
        fp8=True,
    ),
    Case("qwen7b-64x2500", (2500,) * 64, kv_heads=4, group=7, head_dim=128, dtype=BF16),
    Case("qwen7b-256x5000", (5000,) * 256, kv_heads=4, group=7, head_dim=128, dtype=BF16),
)
