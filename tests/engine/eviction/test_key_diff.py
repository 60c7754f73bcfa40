import math

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.key_diff import KeyDiff
from tests.engine.eviction.caches import (
    GROUPS,
    cosine,
    random_view,
    score_by_loops,
    view_of_keys,
)

NONE = torch.zeros(1, dtype=torch.int64)


def formula(view: CacheView, sequence: int, layer: int, head: int) -> list[float]:
    keys = view.keys[sequence, layer, head].tolist()
    units = [[x / math.hypot(*key) for x in key] for key in keys]
    anchor = [sum(column) / len(keys) for column in zip(*units, strict=True)]
    return [-cosine(key, anchor) for key in keys]


@pytest.mark.parametrize("group", GROUPS)
def test_follows_the_formula(group: int) -> None:
    view = random_view(group=group)
    expected = score_by_loops(view, formula)
    torch.testing.assert_close(KeyDiff().score(view).double(), expected, atol=1e-5, rtol=0)


def test_keeps_the_odd_key_out() -> None:
    view = view_of_keys([[1.0, 0.1], [1.0, 0.0], [-0.2, 1.0], [2.0, 0.1], [0.5, 0.0]])
    kept = KeyDiff().select(view, 1, pinned=NONE, recent=NONE)
    assert kept.flatten().tolist() == [2]


def test_length_does_not_count() -> None:
    view = view_of_keys([[1.0, 0.5], [10.0, 5.0], [0.1, 0.05]])
    kept = KeyDiff().select(view_of_keys([[0.0, 1.0], [3.0, 0.0]]), 1, pinned=NONE, recent=NONE)
    scores = KeyDiff().score(view).flatten()
    torch.testing.assert_close(scores, scores[:1].expand(3))
    assert kept.flatten().tolist() == [1], "equally far from the mean: the newer stays"
