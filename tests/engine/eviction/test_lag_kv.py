"""LagKV: chunks, their successors, and the entries that have none."""

from collections.abc import Callable
from dataclasses import replace
from statistics import stdev

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.lag_kv import LagKV
from tests.engine.eviction.caches import random_view, score_by_loops, softmax, view_of_keys

NONE = torch.zeros(1, dtype=torch.int64)


def formula(chunk: int, sinks: int) -> Callable[..., list[float]]:
    def score(view: CacheView, *head: int) -> list[float]:
        keys, values = view.keys[head].tolist(), view.values[head].tolist()
        tokens = len(keys)
        size = max(min(chunk, (tokens - sinks) // 4), 2)
        scores = [1.0] * tokens
        start = sinks
        while start + 2 * size <= tokens:
            own, following = range(start, start + size), range(start + size, start + 2 * size)
            importance = [
                (a + b) / 2
                for a, b in zip(
                    softmax(_deviations(keys, own, following)),
                    softmax(_deviations(values, own, following)),
                    strict=True,
                )
            ]
            ascending = sorted(range(size), key=lambda i: (importance[i], i))
            for rank, i in enumerate(ascending):
                scores[start + i] = rank / size
            start += size
        return scores

    return score


def _deviations(entries: list[list[float]], own: range, following: range) -> list[float]:
    """Of each own entry: standard deviation over channels, scaled to the following's range."""
    least = [min(channel) for channel in zip(*(entries[i] for i in following), strict=True)]
    most = [max(channel) for channel in zip(*(entries[i] for i in following), strict=True)]
    return [
        stdev(
            (x - low) / (high - low) if high > low else 0.0
            for x, low, high in zip(entries[i], least, most, strict=True)
        )
        for i in own
    ]


@pytest.mark.parametrize(("chunk", "sinks"), [(128, 4), (128, 0), (5, 3), (2, 1), (6, 12), (4, 19)])
@pytest.mark.parametrize("tokens", [24, 37, 6])
def test_follows_the_formula(chunk: int, sinks: int, tokens: int) -> None:
    view = random_view(tokens=tokens)
    expected = score_by_loops(view, formula(chunk, sinks))
    actual = LagKV(chunk=chunk, sinks=sinks).score(view)
    torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=0)


def test_without_a_successor_everything_stays_before_ranked_entries() -> None:
    policy = LagKV(chunk=5, sinks=2)  # 24 slots: sinks, three ranked chunks, the last, 2 left over
    scores = policy.score(random_view())
    assert (scores[..., :2] == 1).all()
    assert (scores[..., 2:17] < 1).all()
    assert (scores[..., 17:] == 1).all()
    in_order = scores[..., 2:17].unflatten(-1, (3, 5)).sort(dim=-1).values
    torch.testing.assert_close(in_order, (torch.arange(5) / 5).expand_as(in_order))


def test_chunks_lose_equally_many_the_oldest_first() -> None:
    policy = LagKV(chunk=5, sinks=2)
    kept = policy.select(random_view(), 24 - 7, pinned=NONE.expand(2), recent=NONE.expand(2))
    for head in kept.flatten(0, 2).tolist():
        gone = set(range(24)) - set(head)
        assert [len(gone & set(range(start, start + 5))) for start in (2, 7, 12)] == [3, 2, 2]


def test_keeps_the_entry_unlike_the_next_chunk() -> None:
    """Slot 1 lies outside of the next chunk's range in one channel, 0 and 2 inside in both."""
    following = [[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]
    keys = [[0.5, 0.5], [0.5, 4.0], [0.2, 0.2], *following, *following, *following]
    scores = LagKV(chunk=3, sinks=0).score(view_of_keys(keys)).flatten().tolist()
    assert scores[:3] == pytest.approx([0, 2 / 3, 1 / 3])


def test_values_count_as_keys_do() -> None:
    view = random_view()
    policy = LagKV(chunk=6)
    swapped = replace(view, keys=view.values, values=view.keys)
    assert torch.equal(policy.score(view), policy.score(swapped))
    assert not torch.equal(policy.score(view), policy.score(replace(view, values=view.keys)))


def test_a_channel_that_stands_still_over_the_next_chunk_says_nothing() -> None:
    view = random_view()
    policy = LagKV(chunk=5, sinks=2)
    keys, without = view.keys.clone(), view.keys.clone()
    keys[..., 7:12, 3] = 1.5
    without[..., 2:12, 3] = 0.0
    expected = score_by_loops(replace(view, keys=keys), formula(5, 2))[..., 2:7]
    for entries in (keys, without):
        actual = policy.score(replace(view, keys=entries))[..., 2:7]
        torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=0)


def test_of_equals_the_older_goes() -> None:
    alike = torch.ones_like(random_view().keys)
    ranks = LagKV(chunk=5).score(replace(random_view(), keys=alike, values=alike))
    torch.testing.assert_close(ranks[0, 0, 0, 4:9], torch.arange(5) / 5)
