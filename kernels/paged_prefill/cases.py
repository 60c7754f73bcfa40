"""Inputs for paged_prefill, the same for tests and benchmarks; poisoned as paged_decode's are."""

from dataclasses import dataclass
from typing import Any

import torch

from kernels.paged_decode import cases as decode


@dataclass(frozen=True)
class Case(decode.Case):
    """One packed batch; sequence s holds lengths[s] entries, of which the newest chunks[s] ask."""

    chunks: tuple[int, ...] = ()
    padding: int = 0  # rows after the last sequence's


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `paged_prefill`."""
    chunks = torch.tensor(case.chunks)
    cache = decode.paged_cache(case, chunks, device)
    generator = torch.Generator(device).manual_seed(case.seed + 1)
    tokens = int(chunks.sum()) + case.padding
    shape = (tokens, case.kv_heads * case.group, case.head_dim)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), chunks.cumsum(0)])
    # rows count up to the position of their sequence's newest slot
    positions = torch.zeros(tokens, dtype=torch.int64)
    ends = (cache.next_positions.cpu() - starts[1:]).repeat_interleave(chunks)
    positions[: len(ends)] = ends + torch.arange(len(ends))
    windowed = case.window is not None
    return {
        "query": torch.randn(shape, generator=generator, device=device).to(case.dtype),
        "keys": cache.keys,
        "values": cache.values,
        "block_tables": cache.block_tables,
        "lengths": cache.lengths,
        "query_starts": starts.int().to(device),
        "scale": case.head_dim**-0.5,
        "window": case.window,
        "slot_positions": cache.slot_positions if windowed else None,
        "query_positions": positions.int().to(device) if windowed else None,
        "key_scales": cache.key_scales,
        "value_scales": cache.value_scales,
    }


BF16 = torch.bfloat16
CASES = (
    Case("whole-prompts", (1, 15, 16, 17, 33), chunks=(1, 15, 16, 17, 33)),
    Case("chunks", (63, 111, 20), chunks=(5, 17, 1), padding=3),
    Case("chunks-bf16", (63, 111, 20), chunks=(5, 33, 1), padding=3, dtype=BF16),
    Case("empty-chunk", (9, 12, 30), chunks=(4, 0, 2), group=4, head_dim=64, dtype=BF16),
    Case("group1-dim80", (40, 18), chunks=(20, 18), group=1, head_dim=80, dtype=BF16),
    Case("group7-dim128", (63, 16), chunks=(30, 16), kv_heads=1, group=7, head_dim=128, dtype=BF16),
    Case("group8-dim80", (31, 1), chunks=(7, 1), kv_heads=1, group=8, head_dim=80),
    Case("group17-dim16", (21,), chunks=(4,), kv_heads=1, group=17, head_dim=16),
    Case("three-kv-heads", (49, 2), chunks=(9, 2), kv_heads=3, group=3, dtype=torch.float16),
    Case("block5", (23, 41), chunks=(23, 6), block_size=5),
    Case("window", (63, 111, 12), chunks=(20, 40, 12), window=24),
    Case("window1-bf16", (20, 3), chunks=(5, 3), window=1, dtype=BF16),
    Case("window-wide", (17, 33), chunks=(17, 3), window=4096, group=4, padding=1),
    Case("fp8", (63, 111, 20), chunks=(5, 17, 1), padding=3, fp8=True),
    Case("fp8-bf16", (63, 30), chunks=(30, 4), kv_heads=3, group=7, dtype=BF16, fp8=True),
    Case("fp8-f16-dim80", (40, 18), chunks=(20, 18), head_dim=80, dtype=torch.float16, fp8=True),
    Case("fp8-window", (63, 111, 12), chunks=(20, 40, 12), window=24, fp8=True),
)
BENCHMARKS = (
    Case("pocket-16x64", (64,) * 16, chunks=(64,) * 16),
    Case(
        "llama8b-8x1024",
        (1024,) * 8,
        chunks=(1024,) * 8,
        kv_heads=8,
        group=4,
        head_dim=128,
        dtype=BF16,
    ),
    Case("qwen7b-1x8192", (8192,), chunks=(8192,), kv_heads=4, group=7, head_dim=128, dtype=BF16),
)
