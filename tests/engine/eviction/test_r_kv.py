"""R-KV, as we use it by default and in the form of its authors' code."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.r_kv import RKV
from tests.engine.eviction.caches import (
    GROUPS,
    cosine,
    group_heads,
    logits_of,
    present_queries,
    random_view,
    score_by_loops,
    softmax,
    view_of_keys,
)

NONE = torch.zeros(1, dtype=torch.int64)
FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "few queries": {"window": 3, "threshold": 0.3},
    "mean": {"window_mean": 1, "window": 6, "threshold": 0.5},
    "pooled": {"pool_radius": 2, "threshold": 0.0, "importance_weight": 0.6},
    "paper": {
        "window": 8,
        "window_mean": 1,
        "pool_radius": 3,
        "threshold": 0.5,
        "mean_redundancy": 1,
    },
    "paper, nothing alike": {"threshold": 1.0, "mean_redundancy": 1},
}


def _importance(
    policy: RKV, view: CacheView, sequence: int, layer: int, kv_head: int
) -> list[float]:
    slots = range(view.keys.shape[3])
    heads = group_heads(view, kv_head)
    rows = []
    for query in present_queries(view, sequence, policy.window):
        each = [logits_of(view, sequence, layer, head, query) for head in heads]
        rows.append(softmax([max(logits) for logits in zip(*each, strict=True)]))
    over = [[row[slot] for row in rows] for slot in slots]
    plain = [sum(x) / len(x) if policy.window_mean else max(x) for x in over]
    radius = policy.pool_radius
    return [max(plain[max(0, slot - radius) : slot + radius + 1]) for slot in slots]


def _redundancy(policy: RKV, own: torch.Tensor) -> list[float]:
    keys, tokens = own.tolist(), len(own)
    alike = [[cosine(a, b) for b in keys] for a in keys]
    if not policy.mean_redundancy:
        nearest = [max([*row[i + 1 :], 0.0]) for i, row in enumerate(alike)]
        return [x if x > policy.threshold else 0.0 for x in nearest]
    for i, row in enumerate(alike):
        row[i] = 0.0
        near = [j for j in range(tokens) if row[j] > policy.threshold]
        if near:
            row[near[-1]] = 0.0
    return softmax([sum(alike[i][j] for i in range(tokens)) / tokens for j in range(tokens)])


def formula(policy: RKV) -> Callable[..., list[float]]:
    """Of `policy`, its settings are read and nothing else."""

    def score(view: CacheView, *head: int) -> list[float]:
        weight = policy.importance_weight
        important = _importance(policy, view, *head)
        redundant = _redundancy(policy, view.keys[head])
        return [weight * i - (1 - weight) * r for i, r in zip(important, redundant, strict=True)]

    return score


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("form", FORMS)
def test_follows_the_formula(group: int, form: str) -> None:
    policy = RKV(**FORMS[form])
    view = random_view(tokens=36, group=group, missing=3)  # more than one block of cosines
    expected = score_by_loops(view, formula(policy))
    torch.testing.assert_close(policy.score(view).double(), expected, atol=1e-5, rtol=0)


def test_of_near_duplicates_the_older_goes() -> None:
    keys = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.99, 0.02, 0.0], [0.0, 0.0, 1.0]]
    kept = RKV().select(view_of_keys(keys), 3, pinned=NONE, recent=NONE)
    assert kept.flatten().tolist() == [1, 2, 3]


def test_in_the_papers_form_too() -> None:
    paper = RKV(**FORMS["paper"])
    keys = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    kept = paper.select(view_of_keys(keys), 3, pinned=NONE, recent=NONE)
    assert kept.flatten().tolist() == [1, 2, 3]


def test_a_duplicate_goes_before_what_nobody_looks_at() -> None:
    keys = [[0.0, 3.0], [-5.0, 0.0], [0.0, 3.1], [0.0, 3.2]]
    kept = RKV().select(view_of_keys(keys), 2, pinned=NONE, recent=NONE)
    assert kept.flatten().tolist() == [1, 3]


def test_without_duplicates_attention_decides() -> None:
    keys = [[0.0, 3.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 3.0], [1.5, -2.0, -2.0]]
    kept = RKV(window=1).select(view_of_keys(keys), 2, pinned=NONE, recent=NONE)
    assert kept.flatten().tolist() == [1, 3]


def test_a_threshold_of_one_switches_redundancy_off() -> None:
    keys = torch.tensor([[0.3, 0.7, 0.1]]).repeat(40, 1).tolist()
    assert not RKV(threshold=1.0)._redundancy(view_of_keys(keys)).any()


@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 70])
@pytest.mark.parametrize("form", ["default", "paper"])
def test_redundancy_is_right_at_any_length(form: str, tokens: int) -> None:
    draw = torch.Generator().manual_seed(tokens)
    keys = torch.randn(tokens, 3, generator=draw)
    policy = RKV(**FORMS[form])
    actual = policy._redundancy(view_of_keys(keys.tolist())).flatten()
    expected = torch.tensor(_redundancy(policy, keys))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
