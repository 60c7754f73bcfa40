"""Inputs for select_entries, the same for tests and benchmarks: many equals, some broken scores."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """Sequences that pin their oldest and newest entries."""

    name: str
    pinned: tuple[int, ...]
    recent: tuple[int, ...]
    tokens: int
    count: int
    layers: int = 2
    kv_heads: int = 2
    broken: bool = False  # NaN, infinities and negative zeros among the scores
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `select_entries`; layers or heads of one sequence may be broadcast."""
    generator = torch.Generator(device).manual_seed(case.seed)
    shape = (len(case.pinned), case.layers, case.kv_heads, case.tokens)
    scores = torch.randn(shape, generator=generator, device=device)
    scores = (scores * 8).round() / 8  # many equals
    if case.broken:
        values = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 3e38, -3e38, 1e-40])
        chosen = torch.randint(0, 16, shape, generator=generator, device=device)
        wild = values.to(device)[chosen.clamp(max=7)]
        scores = torch.where(chosen < 8, wild, scores)
    return {
        "scores": scores,
        "count": case.count,
        "pinned": torch.tensor(case.pinned, device=device),
        "recent": torch.tensor(case.recent, device=device),
    }


CASES = (
    Case("pocket", (24, 3, 0), (16, 8, 0), tokens=128, count=112),
    Case("broken", (24, 3, 0), (16, 8, 1), tokens=97, count=50, broken=True),
    Case("all-stay", (40, 5), (20, 60), tokens=80, count=65),
    Case("overlap", (30, 2), (25, 40), tokens=40, count=40),
    Case("keep-one", (0, 1), (0, 0), tokens=33, count=1, broken=True),
    Case("keep-none", (0,), (0,), tokens=5, count=0),
    Case("keep-all", (1,), (1,), tokens=17, count=17, broken=True),
    Case("one-token", (0, 1), (1, 0), tokens=1, count=1),
    Case("long", (100,), (128,), tokens=1500, count=1300, layers=1, kv_heads=1, broken=True),
)
BENCHMARKS = (
    Case("pocket-4x128", (24,) * 4, (16,) * 4, tokens=128, count=112, layers=4),
    Case("llama8b-4x2500", (100,) * 4, (128,) * 4, 2500, 2372, layers=32, kv_heads=8),
)
