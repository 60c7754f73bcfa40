from collections.abc import Callable

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.snapkv import SnapKV
from tests.engine.eviction.caches import (
    GROUPS,
    group_heads,
    logits_of,
    present_queries,
    random_view,
    score_by_loops,
    softmax,
    view_of_keys,
)

NONE = torch.zeros(1, dtype=torch.int64)


def formula(window: int, radius: int) -> Callable[..., list[float]]:
    def score(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
        tokens = view.keys.shape[3]
        queries = present_queries(view, sequence, window)
        heads = group_heads(view, kv_head)
        mean = [0.0] * tokens
        for head in heads:
            for query in queries:
                row = softmax(logits_of(view, sequence, layer, head, query))
                for slot, probability in enumerate(row):
                    mean[slot] += probability / len(heads) / len(queries)
        pools = [mean[max(0, slot - radius) : slot + radius + 1] for slot in range(tokens)]
        return [sum(pool) / len(pool) for pool in pools]

    return score


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("window", "radius"), [(1, 0), (5, 0), (5, 1), (8, 3), (16, 2)])
def test_follows_the_formula(group: int, window: int, radius: int) -> None:
    view = random_view(group=group, missing=3)
    expected = score_by_loops(view, formula(window, radius))
    actual = SnapKV(window=window, pool_radius=radius).score(view)
    torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=0)


def test_keeps_what_the_last_query_looks_at() -> None:
    keys = [[0.0, 0.0], [0.0, 5.0], [0.0, 0.0], [5.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    sharp = SnapKV(window=1, pool_radius=0).select(view_of_keys(keys), 1, pinned=NONE, recent=NONE)
    assert sharp.flatten().tolist() == [1]


def test_pooling_keeps_the_neighbours() -> None:
    keys = [[0.0], [0.0], [0.0], [9.0], [0.0], [0.0], [0.0], [1.0]]
    view = view_of_keys(keys)
    pooled = SnapKV(window=1, pool_radius=1).select(view, 3, pinned=NONE, recent=NONE)
    assert pooled.flatten().tolist() == [2, 3, 4]


def test_without_any_query_the_newest_stay() -> None:
    view = random_view(missing=8)
    kept = SnapKV().select(view, 6, pinned=NONE.expand(2), recent=NONE.expand(2))
    assert (kept[1] == torch.arange(18, 24)).all()
