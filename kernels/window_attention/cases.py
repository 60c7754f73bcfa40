"""Inputs for window_attention, the same for tests and benchmarks.

Everything that must not be used is poisoned: missing queries, keys that no query sees, and what
lies between one cache's tokens and the next's hold NaN. Layouts are those in which the engine
gathers: queries from a ring, caches from whole blocks.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Caches that lost tokens, different ones in each head; sequence i lacks missing[i] queries."""

    name: str
    missing: tuple[int, ...]
    tokens: int = 33
    recent: int = 16
    ahead: int = 0  # newest entries that are newer than the newest query
    layers: int = 2
    kv_heads: int = 2
    group: int = 2
    head_dim: int = 32
    dtype: torch.dtype = torch.float32
    over_queries: str = "mean"
    over_heads: str = "mean"
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def roomy(tensor: Tensor, room: int) -> Tensor:
    """The same numbers in a buffer whose fourth dimension is `room` longer, full of NaN or -1."""
    filler = torch.nan if tensor.is_floating_point() else -1
    shape = (*tensor.shape[:3], tensor.shape[3] + room, *tensor.shape[4:])
    buffer = torch.full(shape, filler, dtype=tensor.dtype, device=tensor.device)
    view = buffer[:, :, :, : tensor.shape[3]]
    view.copy_(tensor)
    return view


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `window_attention`."""
    generator = torch.Generator(device).manual_seed(case.seed)
    shape = (len(case.missing), case.layers, case.kv_heads, case.tokens)
    steps = torch.randint(1, 4, shape, generator=generator, device=device)
    positions = steps.cumsum(-1)
    ends = 3 * case.tokens + torch.arange(shape[0], device=device)  # newest entries' positions
    positions += ends[:, None, None, None] - positions[..., -1:]
    back = torch.arange(case.recent - 1, -1, -1, device=device) + case.ahead
    query_positions = ends[:, None] - back
    age = torch.arange(case.recent, device=device)
    lacking = age < torch.tensor(case.missing, device=device)[:, None]
    query_positions = query_positions.masked_fill(lacking, -1)
    heads = case.kv_heads * case.group
    ring = (case.layers, shape[0], case.recent, heads, case.head_dim)
    queries = torch.randn(ring, generator=generator, device=device).permute(1, 0, 3, 2, 4)
    queries.masked_fill_(lacking[:, None, None, :, None], torch.nan)
    keys = torch.randn(*shape, case.head_dim, generator=generator, device=device)
    newest = query_positions.max(dim=1).values[:, None, None, None]
    keys.masked_fill_((positions > newest)[..., None], torch.nan)
    return {
        "queries": queries.to(case.dtype),
        "query_positions": query_positions.int(),
        "keys": roomy(keys.to(case.dtype), -case.tokens % 16),
        "positions": roomy(positions.int(), -case.tokens % 16),
        "scale": case.head_dim**-0.5,
        "over_queries": case.over_queries,
        "over_heads": case.over_heads,
    }


BF16 = torch.bfloat16
CASES = (
    Case("snapkv", (0, 3, 16)),
    Case("r_kv", (0, 3, 16), over_queries="max", over_heads="strongest"),
    Case("r_kv-paper", (0, 5), recent=8, over_heads="strongest", group=4, head_dim=64),
    Case("accumulated", (31, 0, 12), recent=32, over_queries="sum", tokens=48),
    Case("tova", (0, 0), recent=1, group=7, head_dim=128, dtype=BF16),
    Case("max-bf16", (0, 2), over_queries="max", dtype=BF16, group=4, head_dim=128),
    Case("f16-dim80", (0,), dtype=torch.float16, head_dim=80, group=8, kv_heads=1),
    Case("keys-newer-than-queries", (0, 1), ahead=9, over_queries="sum", tokens=20),
    Case("queries-older-than-keys", (0, 1), tokens=5, recent=16, over_heads="strongest"),
    Case("three-kv-heads", (2,), kv_heads=3, group=3, recent=5, tokens=17, head_dim=6),
    Case("group1-wide", (0, 40), group=1, recent=37, tokens=131, over_queries="max"),
    Case("group5", (0,), group=5, recent=3, tokens=70, layers=1, head_dim=10),
)
BENCHMARKS = (
    Case("pocket-4x128", (0,) * 4, tokens=128, layers=4),
    Case("pocket-4x256", (0,) * 4, tokens=256, layers=4),
    Case("llama8b-2x2500", (0,) * 2, tokens=2500, layers=32, kv_heads=8, group=4, head_dim=128),
)
