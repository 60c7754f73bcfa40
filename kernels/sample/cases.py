"""Inputs for sample, the same for tests and benchmarks: rows with settings and logits of all kinds.

In the rows of CASES no entry lies near the edge of what a filter keeps, so that rounding decides
nothing; the tests check that this is so.
"""

from dataclasses import dataclass
from typing import Any

import torch

BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


@dataclass(frozen=True)
class Row:
    """One row's settings."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True)
class Case:
    """Rows over one vocabulary; each is drawn with every one of `numbers`."""

    name: str
    rows: tuple[Row, ...]
    vocabulary: int
    scale: float = 3.0  # standard deviation of the logits
    step: float = 0.0  # logits are rounded to multiples of it, which makes equals; 0: not rounded
    hidden: float = 0.0  # share of the entries that are -inf; the last entry never is
    numbers: tuple[float, ...] = (0.0, 0.7)
    dtype: torch.dtype = torch.float32
    stride: int = 0  # of the rows; 0: contiguous
    seed: int = 0

    def __str__(self) -> str:
        return self.name


def make(case: Case, device: str = "cpu") -> dict[str, Any]:
    """Keyword arguments for `sample`."""
    generator = torch.Generator(device).manual_seed(case.seed)
    rows, repeats = len(case.rows), len(case.numbers)
    shape = (rows, case.vocabulary)
    logits = torch.randn(shape, generator=generator, device=device) * case.scale
    if case.step:
        logits = (logits / case.step).round() * case.step
    if case.hidden:
        hidden = torch.rand(shape, generator=generator, device=device) < case.hidden
        hidden[:, -1] = False
        logits[hidden] = -torch.inf
    logits = logits.repeat_interleave(repeats, dim=0).to(case.dtype)
    if case.stride:
        wide = torch.full((rows * repeats, case.stride), torch.nan, device=device)
        wide = wide.to(case.dtype)
        wide[:, : case.vocabulary] = logits
        logits = wide[:, : case.vocabulary]

    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        values = torch.tensor([getattr(row, name) for row in case.rows], dtype=dtype, device=device)
        return values.repeat_interleave(repeats)

    return {
        "logits": logits,
        "temperatures": column("temperature", torch.float32),
        "top_ks": column("top_k", torch.int32),
        "top_ps": column("top_p", torch.float32),
        "min_ps": column("min_p", torch.float32),
        "numbers": torch.tensor(case.numbers, device=device).repeat(rows),
    }


GREEDY, PLAIN = Row(temperature=0.0), Row()
RECIPE = Row(0.6, top_p=0.95)  # that of DeepSeek-R1
MIXED = (GREEDY, PLAIN, RECIPE, Row(0.7, 20, 0.8, 0.05), Row(1.0, 5), Row(min_p=0.1))
EXTREME = (
    Row(0.01, top_p=0.9),
    Row(10.0, 7, 0.9),
    Row(top_k=1),
    Row(top_p=1e-6),
    Row(min_p=1.0),
    Row(top_k=10_000, top_p=0.5),
    Row(1e-30),
    Row(0.6, top_p=0.0),
)
BF16, F16 = torch.bfloat16, torch.float16
CASES = (
    Case("mixed", MIXED, 97),
    Case("extreme", EXTREME, 33, numbers=(BELOW_ONE,)),
    Case("ties", (*MIXED, Row(top_k=1), Row(min_p=1.0)), 61, step=1.0, numbers=(0.25,)),
    Case("hidden", MIXED, 150, hidden=0.6, numbers=(BELOW_ONE,)),
    Case("one-finite", (GREEDY, RECIPE, Row(top_k=3, min_p=0.5)), 20, hidden=1.0),
    Case("one-token", (GREEDY, RECIPE, Row(top_k=3, min_p=0.5)), 1),
    Case("equal", (GREEDY, RECIPE, Row(top_k=2)), 45, scale=0.0),
    Case("near-zero", MIXED[2:4], 257, scale=0.01, step=0.004, numbers=(0.3, 0.9)),
    Case("many-tiles", MIXED[:4], 9001, numbers=(0.4,)),
    Case("bf16", MIXED, 200, dtype=BF16, numbers=(0.2,)),
    Case("f16-strided", MIXED, 131, dtype=F16, stride=160, numbers=(0.2,)),
    Case("strided", MIXED, 64, stride=80, numbers=(0.6,)),
    Case("no-rows", (), 16),
)
BENCHMARKS = (
    Case("pocket-64-greedy", (GREEDY,) * 64, 384, numbers=(0.5,)),
    Case("pocket-64", (RECIPE,) * 64, 384, numbers=(0.5,)),
    Case("qwen-64", (RECIPE,) * 64, 152_064, numbers=(0.5,), dtype=BF16),
)
