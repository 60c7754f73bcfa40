"""Probabilities of recent queries: causal, missing queries silent, groups reduced."""

from dataclasses import replace

import pytest
import torch

from engine.eviction.attention import group_attention, mean_over_queries, window_attention
from tests.engine.eviction.caches import (
    GROUPS,
    group_heads,
    heads_of,
    logits_of,
    random_view,
    softmax,
)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("window", [1, 5, 8, 20])
def test_follows_the_formula(group: int, window: int) -> None:
    view = random_view(group=group, missing=3)
    window_of_heads = window_attention(view, window)
    window_of_groups = group_attention(view, window)
    present = min(window, 8)
    assert window_of_heads.shape == (2, 2, 3 * group, present, 24)
    assert window_of_groups.shape == (2, 2, 3, present, 24)
    assert view.query_positions is not None
    for sequence, layer, kv_head in heads_of(view):
        for row in range(present):
            query = 8 - present + row
            heads = group_heads(view, kv_head)
            rows = [logits_of(view, sequence, layer, head, query) for head in heads]
            if view.query_positions[sequence, query] < 0:
                rows = [[-torch.inf] * 24 for _ in rows]
            for head, logits in zip(heads, rows, strict=True):
                _close(window_of_heads[sequence, layer, head, row], softmax(logits))
            strongest = [max(logits) for logits in zip(*rows, strict=True)]
            _close(window_of_groups[sequence, layer, kv_head, row], softmax(strongest))


def _close(actual: torch.Tensor, expected: list[float]) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.double(), wanted, atol=1e-6, rtol=0)


def test_a_query_sees_itself_and_nothing_newer() -> None:
    view = random_view()
    attention = window_attention(view, 8)
    hidden = torch.ones(8, 24, dtype=torch.bool).triu(17)  # query i wrote slot 16 + i
    assert (attention[..., hidden] == 0).all()
    assert (attention[..., ~hidden] > 0).all()


def test_a_query_whose_keys_are_all_gone_counts_for_nothing() -> None:
    view = random_view(tokens=4, recent=8)
    attention = window_attention(view, 8)
    assert (attention[..., :4, :] == 0).all(), "the four entries are newer than those queries"
    torch.testing.assert_close(attention[..., 4:, :].sum(dim=-1), torch.ones(2, 2, 6, 4))


def test_the_mean_is_over_the_queries_that_exist() -> None:
    view = random_view(missing=5)
    mean = mean_over_queries(view, window_attention(view, 8))
    torch.testing.assert_close(mean.sum(dim=-1), torch.ones(2, 2, 6))
    nobody = replace(view, query_positions=torch.full((2, 8), -1, dtype=torch.int32))
    assert not mean_over_queries(nobody, window_attention(nobody, 8)).any()
