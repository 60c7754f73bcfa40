"""H2O, and the sum of received attention that it reads."""

from dataclasses import replace

import pytest
import torch

from engine.eviction.attention import accumulated
from engine.eviction.base import CacheView
from engine.eviction.h2o import H2O
from tests.engine.eviction.caches import (
    GROUPS,
    group_heads,
    logits_of,
    one_sequence,
    present_queries,
    random_view,
    score_by_loops,
    softmax,
    view_of_keys,
)


def _received(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
    """Of the whole ring."""
    assert view.queries is not None
    received = [0.0] * view.keys.shape[3]
    for head in group_heads(view, kv_head):
        for query in present_queries(view, sequence, view.queries.shape[3]):
            row = softmax(logits_of(view, sequence, layer, head, query))
            received = [a + b for a, b in zip(received, row, strict=True)]
    return received


def formula(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
    """The view's own count: whoever made it saw every query since the start."""
    assert view.mass is not None
    return [float(mass) for mass in view.mass[sequence, layer, kv_head]]


@pytest.mark.parametrize("group", GROUPS)
def test_mass_grows_by_exactly_the_uncounted_queries(group: int) -> None:
    view = random_view(sequences=3, group=group, missing=1)
    assert view.mass is not None
    assert view.query_positions is not None
    since = torch.tensor([8, 0, 3])
    counted = torch.arange(8) < 8 - since[:, None]
    due = replace(view, query_positions=view.query_positions.masked_fill(counted, -1))
    expected = view.mass.double() + score_by_loops(due, _received)
    actual = accumulated(view, view.mass, since)
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(actual[1], view.mass[1])


def test_counting_twice_or_at_once_is_the_same() -> None:
    view = random_view()
    assert view.mass is not None
    assert view.query_positions is not None
    at_once = accumulated(view, view.mass, torch.tensor([7, 5]))
    # Three queries back the ring held older queries, and the cache lacked the newest three keys,
    # which those queries could not see.
    earlier = replace(view, query_positions=view.query_positions.clone())
    assert earlier.query_positions is not None
    earlier.query_positions[:, -3:] = -1
    before = accumulated(earlier, view.mass, torch.tensor([7, 5]))
    twice = accumulated(view, before, torch.tensor([3, 3]))
    torch.testing.assert_close(twice, at_once)


def test_mass_is_probability() -> None:
    """Every query hands out one, in each of the group's heads."""
    view = random_view(group=4)
    assert view.mass is not None
    received = accumulated(view, torch.zeros_like(view.mass), torch.tensor([8, 2])).sum(dim=-1)
    torch.testing.assert_close(received[0], torch.full((2, 3), 8 * 4.0))
    torch.testing.assert_close(received[1], torch.full((2, 3), 2 * 4.0))


def test_a_sequence_alone_accumulates_as_among_others() -> None:
    view = random_view(sequences=3, tokens=2000, recent=16)
    assert view.mass is not None
    since = torch.tensor([16, 1, 9])
    together = accumulated(view, view.mass, since)
    for i in range(3):
        alone = one_sequence(view, i)
        assert alone.mass is not None
        mass = accumulated(alone, alone.mass, since[i : i + 1])
        assert torch.equal(mass[0], together[i])


def test_keeps_the_heavy_hitter() -> None:
    keys = [[0.0], [4.0], [0.0], [0.0], [1.0], [1.0]]  # every later query is drawn to slot 1
    view = view_of_keys(keys)
    assert view.queries is not None
    view = replace(view, queries=torch.ones_like(view.queries))
    nothing = torch.zeros(view.keys.shape[:4])
    view = replace(view, mass=accumulated(view, nothing, torch.tensor([6])))
    kept = H2O().select(view, 3, pinned=torch.tensor([0]), recent=torch.tensor([2]))
    assert kept.flatten().tolist() == [1, 4, 5]


def test_scores_are_the_mass() -> None:
    view = random_view()
    assert H2O().needs_mass
    assert view.mass is not None
    assert torch.equal(H2O().score(view).double(), score_by_loops(view, formula))
