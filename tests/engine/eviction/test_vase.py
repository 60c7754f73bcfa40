"""VaSE: wide values stay, the rest is a sample without replacement."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.vase import VaSE
from tests.engine.eviction import test_random, test_snapkv
from tests.engine.eviction.caches import (
    GROUPS,
    coarse,
    random_view,
    score_by_loops,
    view_of_keys,
)

NONE = torch.zeros(1, dtype=torch.int64)


def formula(
    window: int, radius: int, share: float, count: int, pinned: int, recent: int
) -> Callable[..., list[float]]:
    """Of a round that leaves `count` entries: the wide ones have infinite scores."""
    attention = test_snapkv.formula(window, radius)

    def score(view: CacheView, *head: int) -> list[float]:
        hashes = test_random.formula(view, *head)
        clocks = [-math.log(max(u, 2**-25)) for u in hashes]
        scores = [a / clock for a, clock in zip(attention(view, *head), clocks, strict=True)]
        widths = [coarse(max(value) - min(value)) for value in view.values[head].tolist()]
        tokens = len(scores)
        choice = range(pinned, max(pinned, tokens - recent))
        free = count - (tokens - len(choice))
        widest = sorted(choice, key=lambda slot: (widths[slot], slot), reverse=True)
        for slot in widest[: int(free * share)]:
            scores[slot] = math.inf
        return scores

    return score


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(("window", "radius"), [(16, 2), (3, 0)])
def test_scores_follow_the_formula(group: int, window: int, radius: int) -> None:
    view = random_view(group=group, missing=3)
    nothing_large = formula(window, radius, 0.0, 24, 0, 0)
    expected = score_by_loops(view, nothing_large)
    actual = VaSE(window=window, pool_radius=radius).score(view)
    torch.testing.assert_close(actual.double(), expected, atol=0, rtol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize("count", [9, 14, 23])
def test_selection_follows_the_formula(share: float, count: int) -> None:
    view = random_view()
    for pinned, recent in ((0, 0), (5, 3), (2, 7)):
        scores = score_by_loops(view, formula(16, 2, share, count, pinned, recent))
        scores[..., :pinned] = scores[..., 24 - recent :] = torch.inf
        expected = scores.topk(count).indices.sort().values
        kept = VaSE(large_share=share).select(
            view, count, pinned=NONE.expand(2) + pinned, recent=NONE.expand(2) + recent
        )
        assert torch.equal(kept, expected)


def test_sequences_differ_in_how_many_are_large() -> None:
    view = random_view()
    kept = VaSE(large_share=1.0).select(
        view, 12, pinned=torch.tensor([0, 8]), recent=torch.tensor([2, 4])
    )
    widths = view.values.amax(-1) - view.values.amin(-1)
    for head, (pinned, recent) in zip(range(2), [(0, 2), (8, 4)], strict=True):
        inner = widths[head, 1, 2, pinned : 24 - recent]
        large = inner.topk(12 - pinned - recent).indices + pinned
        inside = [s for s in kept[head, 1, 2].tolist() if pinned <= s < 24 - recent]
        assert inside == sorted(large.tolist())


def test_of_equal_values_the_newer_are_large() -> None:
    view = random_view(sequences=1)
    noise = torch.rand(24, 1, generator=torch.Generator().manual_seed(1)) * 1e-6
    alike = view.values[..., :1, :] * (1 + noise)
    kept = VaSE(large_share=1.0).select(replace(view, values=alike), 7, pinned=NONE, recent=NONE)
    assert (kept == torch.arange(17, 24)).all()


def test_draws_by_attention() -> None:
    """Of many seeds: the first drawn is each entry in proportion to its weight."""
    draws = 8000
    one = view_of_keys([[0.0], [1.0], [2.0], [1.5], [0.5], [0.7]])
    seeds = torch.arange(draws)
    names = ("keys", "values", "positions", "queries")
    many = {
        name: getattr(one, name).expand(draws, -1, -1, -1, *[-1] * (name != "positions"))
        for name in names
    }
    assert one.query_positions is not None
    view = replace(one, **many, seeds=seeds, query_positions=one.query_positions.expand(draws, -1))
    policy = VaSE(large_share=0.0, window=1, pool_radius=0)
    weights = torch.tensor([0.0, 1.0, 2.0, 1.5, 0.5, 0.7]).mul(0.7).softmax(0)
    nobody = NONE.expand(draws)
    first = policy.select(view, 1, pinned=nobody, recent=nobody).flatten().bincount(minlength=6)
    error = (weights * (1 - weights) / draws).sqrt()
    assert ((first / draws - weights).abs() < 4 * error).all()
    # Then without replacement: the second is drawn in proportion to what is left.
    two = policy.select(view, 2, pinned=nobody, recent=nobody).flatten(0, 2)
    second = weights * sum(weights[i] / (1 - weights[i]) for i in range(6)) - weights**2 / (
        1 - weights
    )
    included = two.flatten().bincount(minlength=6) / draws
    assert ((included - weights - second).abs() < 0.025).all()


def test_rounds_draw_afresh_and_seeds_repeat() -> None:
    view = random_view()
    none = NONE.expand(2)
    policy = VaSE()
    kept = policy.select(view, 12, pinned=none, recent=none)
    assert torch.equal(kept, policy.select(view, 12, pinned=none, recent=none))
    later = replace(view, seeds=view.seeds + 1)
    assert not torch.equal(kept, policy.select(later, 12, pinned=none, recent=none))


def test_without_any_query_the_newest_stay() -> None:
    view = random_view(missing=8)
    policy = VaSE(large_share=0.0)
    kept = policy.select(view, 6, pinned=NONE.expand(2), recent=NONE.expand(2))
    assert (kept[1] == torch.arange(18, 24)).all()
