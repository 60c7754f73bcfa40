import math

import torch

from engine.eviction.base import CacheView
from engine.eviction.key_norm import KeyNorm
from tests.engine.eviction.caches import coarse, random_view, score_by_loops, view_of_keys

NONE = torch.zeros(1, dtype=torch.int64)


def formula(view: CacheView, sequence: int, layer: int, head: int) -> list[float]:
    return [-coarse(math.hypot(*key)) for key in view.keys[sequence, layer, head].tolist()]


def test_follows_the_formula() -> None:
    view = random_view()
    expected = score_by_loops(view, formula)
    torch.testing.assert_close(KeyNorm().score(view).double(), expected, atol=1e-5, rtol=0)


def test_keeps_the_shortest_key_and_of_equals_the_newer() -> None:
    view = view_of_keys([[3.0, 4.0], [0.0, 2.0], [4.0, 3.0], [2.0, 0.0], [-9.0, 0.0]])
    for count, kept in {1: [3], 2: [1, 3], 3: [1, 2, 3], 4: [0, 1, 2, 3]}.items():
        selected = KeyNorm().select(view, count, pinned=NONE, recent=NONE)
        assert selected.flatten().tolist() == kept


def test_of_one_tokens_occurrences_the_newer_stays() -> None:
    """Turned by their positions: norms are equal but for rounding."""
    angles = torch.arange(200) * 0.7
    keys = torch.stack([angles.cos(), angles.sin()], dim=-1) * 3.3
    assert len(keys.norm(dim=-1).unique()) > 1, "rounding would decide"
    kept = KeyNorm().select(view_of_keys(keys.tolist()), 150, pinned=NONE, recent=NONE)
    assert kept.flatten().tolist() == list(range(50, 200))
