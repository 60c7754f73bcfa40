"""Every policy's formula at its defaults, as its own test wrote it: plain loops in float64.

To add a policy: one import and one line.
"""

from collections.abc import Callable

from engine.eviction.base import CacheView
from engine.eviction.expected_attention import ExpectedAttention
from engine.eviction.r_kv import RKV
from scheduler.budget import Budget
from tests.engine.eviction import (
    test_dynts,
    test_expected_attention,
    test_h2o,
    test_key_diff,
    test_key_norm,
    test_lag_kv,
    test_paged_eviction,
    test_r_kv,
    test_random,
    test_regret,
    test_snapkv,
    test_tova,
    test_tri_attention,
    test_vase,
    test_window,
)

Formula = Callable[[CacheView, int, int, int], list[float]]
"""(view, sequence, layer, KV head) -> score of each slot."""


def formulas(budget: Budget) -> dict[str, Formula]:
    """By policy; `budget` is for those whose ranking depends on how many may stay."""
    return {
        "window": test_window.formula,
        "random": test_random.formula,
        "key_norm": test_key_norm.formula,
        "key_diff": test_key_diff.formula,
        "lag_kv": test_lag_kv.formula(chunk=128, sinks=4),
        "h2o": test_h2o.formula,
        "tova": test_tova.formula,
        "snapkv": test_snapkv.formula(window=16, radius=2),
        "r_kv": test_r_kv.formula(RKV()),
        "vase": test_vase.formula(16, 2, 0.25, budget.keep, budget.pinned, budget.recent),
        "paged_eviction": test_paged_eviction.in_blocks(16, budget.pinned, budget.recent),
        "expected_attention": test_expected_attention.formula(ExpectedAttention()),
        "tri_attention": test_tri_attention.formula(selection=0),
        "dynts": test_dynts.formula,
        "regret": test_regret.formula,
    }
