import math
from collections.abc import Callable

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.paged_eviction import PagedEviction
from engine.eviction.selection import lowest_blocks
from tests.engine.eviction.caches import heads_of, random_view, score_by_loops, view_of_keys

Formula = Callable[[CacheView, int, int, int], list[float]]


def formula(view: CacheView, sequence: int, layer: int, head: int) -> list[float]:
    keys = view.keys[sequence, layer, head].tolist()
    values = view.values[sequence, layer, head].tolist()
    return [math.hypot(*v) / math.hypot(*k) for k, v in zip(keys, values, strict=True)]


def block_means(view: CacheView, sequence: int, size: int) -> list[float]:
    """Score of each whole block: the mean over its entries in every layer and head."""
    heads = [head for head in heads_of(view) if head[0] == sequence]
    rows = [formula(view, *head) for head in heads]
    starts = range(0, view.keys.shape[3] - size + 1, size)
    return [
        sum(row[slot] for row in rows for slot in range(start, start + size)) / (size * len(rows))
        for start in starts
    ]


def in_blocks(size: int, pinned: int, recent: int) -> Formula:
    """Every entry scores as its block does; blocks with a pinned, recent or free slot stay."""

    def formula_of_blocks(view: CacheView, sequence: int, layer: int, head: int) -> list[float]:
        tokens = view.keys.shape[3]
        scores = [math.inf] * tokens
        for block, mean in enumerate(block_means(view, sequence, size)):
            start, end = block * size, (block + 1) * size
            if pinned <= start and end <= tokens - recent:
                scores[start:end] = [mean] * size
        return scores

    return formula_of_blocks


def test_follows_the_formula() -> None:
    view = random_view()
    expected = score_by_loops(view, formula)
    torch.testing.assert_close(PagedEviction().score(view).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("count", [1, 2])
def test_the_blocks_of_lowest_mean_go(size: int, count: int) -> None:
    view = random_view(seed=3)
    means = block_means(view, 1, size)
    expected = sorted(range(len(means)), key=lambda block: means[block])[:count]
    assert lowest_blocks(PagedEviction().score(view)[1], size, count) == expected


def test_of_equal_blocks_the_older_goes() -> None:
    scores = torch.tensor([[[1.0, 3.0, 2.0, 2.0, 3.0, 1.0, 9.0, 0.0]]])
    assert lowest_blocks(scores, 2, 2) == [0, 1]


def test_a_key_of_zero_is_no_reason_to_fail() -> None:
    scores = PagedEviction().score(view_of_keys([[0.0, 0.0], [1.0, 0.0]]))
    assert scores.flatten().tolist() == [0.0, 1.0]
