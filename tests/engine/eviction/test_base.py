"""Selection by rank, whatever the policy: order, ties, and views in parts."""

from dataclasses import dataclass, replace

import pytest
import torch

from engine.eviction.base import BY_SEQUENCE, CacheView, EvictionPolicy
from tests.engine.eviction.caches import one_sequence, random_view, view_of_keys

NONE = torch.zeros(1, dtype=torch.int64)


@dataclass(frozen=True)
class ByMass(EvictionPolicy):
    """Scores are whatever the test put into the view's mass."""

    name = "by_mass"
    summary = "for tests"

    def score(self, view: CacheView) -> torch.Tensor:
        assert view.mass is not None
        return view.mass


def _kept(
    scores: list[float], count: int, pinned: torch.Tensor = NONE, recent: torch.Tensor = NONE
) -> list[int]:
    view = replace(view_of_keys([[0.0]] * len(scores)), mass=torch.tensor([[[scores]]]))
    kept = ByMass().select(view, count, pinned=pinned, recent=recent)
    return kept.flatten().tolist()


def test_the_highest_scores_stay() -> None:
    assert _kept([0.5, -2.0, 3.0, -1.0, 0.0, 1e-40], 3) == [0, 2, 5]


@pytest.mark.parametrize("count", range(1, 7))
def test_of_equals_the_newer_stays(count: int) -> None:
    assert _kept([1.0] * 6, count) == list(range(6 - count, 6))


def test_zero_and_minus_zero_are_equals() -> None:
    assert _kept([0.0, -0.0, 0.0, -0.0], 1) == [3]
    assert _kept([-0.0, -0.0, 0.0, 5.0, 0.0], 2) == [3, 4]


def test_no_score_outranks_a_pinned_entry() -> None:
    infinite = [0.0, torch.inf, torch.nan, torch.inf, torch.inf, -1.0]
    one = torch.tensor([1])
    assert _kept(infinite, 3, pinned=one, recent=one) == [0, 4, 5]
    assert _kept([torch.nan] * 4, 2, pinned=one) == [0, 3]


def test_pinned_and_recent_may_overlap() -> None:
    assert _kept([9.0, 0.0, 0.0, 8.0], 3, torch.tensor([3]), torch.tensor([3])) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_selection_is_a_stable_sort(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(40, generator=draw).mul(3).round().div(3).tolist()  # many equals
    for count in (1, 13, 39, 40):
        best = sorted(range(40), key=lambda slot: (scores[slot], slot))[-count:]
        assert _kept(scores, count) == sorted(best)


def test_parts_are_the_view_cut_by_sequences() -> None:
    view = random_view(sequences=5, tokens=1200)
    parts = view.parts()
    assert 1 < len(parts) <= 5
    for name in BY_SEQUENCE:
        pieces = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(pieces, getattr(view, name)), name
    bare = replace(view, queries=None, query_positions=None, mass=None, importance=None)
    assert all(part.queries is None and part.mass is None for part in bare.parts())
    assert one_sequence(view, 0).parts()[0].keys.shape[0] == 1
