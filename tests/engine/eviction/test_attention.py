"""Attention of recent queries: causal, missing queries silent, heads and queries reduced."""

from dataclasses import replace

import pytest
import torch

from engine.eviction.attention import recent_attention
from engine.eviction.base import CacheView
from tests.engine.eviction.caches import (
    GROUPS,
    group_heads,
    logits_of,
    present_queries,
    random_view,
    score_by_loops,
    softmax,
)

OVER_QUERIES = {"mean": lambda x: sum(x) / len(x), "max": max, "sum": sum}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("window", [1, 5, 8, 20])
@pytest.mark.parametrize("over_heads", ["mean", "strongest"])
@pytest.mark.parametrize("over_queries", OVER_QUERIES)
def test_follows_the_formula(over_queries: str, over_heads: str, window: int, group: int) -> None:
    view = random_view(group=group, missing=3)

    def by_loops(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
        rows = []
        for query in present_queries(view, sequence, window):
            heads = group_heads(view, kv_head)
            each = [logits_of(view, sequence, layer, head, query) for head in heads]
            if over_heads == "strongest":
                rows.append(softmax([max(logits) for logits in zip(*each, strict=True)]))
            else:
                columns = zip(*map(softmax, each), strict=True)
                rows.append([sum(column) / len(each) for column in columns])
        return [OVER_QUERIES[over_queries](column) for column in zip(*rows, strict=True)]

    expected = score_by_loops(view, by_loops)
    modes = {"over_queries": over_queries, "over_heads": over_heads}
    actual = recent_attention(view, window, **modes)  # type: ignore[arg-type]
    torch.testing.assert_close(actual.double(), expected, atol=2e-6, rtol=0)


def test_a_query_sees_itself_and_nothing_newer() -> None:
    view = random_view()
    assert view.query_positions is not None
    for query in range(8):  # query i wrote slot 16 + i
        alone = view.query_positions.where(torch.arange(8) == query, -1)
        attention = recent_attention(replace(view, query_positions=alone), 8)
        assert (attention[..., : 17 + query] > 0).all()
        assert (attention[..., 17 + query :] == 0).all()


def test_a_query_whose_keys_are_all_gone_counts_for_nothing() -> None:
    view = random_view(tokens=4, recent=8)
    total = recent_attention(view, 8, over_queries="sum").sum(dim=-1)
    expected = torch.full((2, 2, 3), 4.0)  # the four entries are newer than the other four
    torch.testing.assert_close(total, expected)


def test_the_mean_is_over_the_queries_that_exist() -> None:
    view = random_view(missing=5)
    torch.testing.assert_close(recent_attention(view, 8).sum(dim=-1), torch.ones(2, 2, 3))
    nobody = replace(view, query_positions=torch.full((2, 8), -1, dtype=torch.int32))
    assert not recent_attention(nobody, 8).any()
