from dataclasses import replace

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.tova import TOVA
from tests.engine.eviction.caches import (
    GROUPS,
    logits_of,
    present_queries,
    random_view,
    score_by_loops,
    softmax,
    view_of_keys,
)

NONE = torch.zeros(1, dtype=torch.int64)


def formula(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
    """The same for every KV head."""
    assert view.queries is not None
    tokens, heads = view.keys.shape[3], view.queries.shape[2]
    mean = [0.0] * tokens
    for query in present_queries(view, sequence, 1):
        for head in range(heads):
            row = softmax(logits_of(view, sequence, layer, head, query))
            mean = [
                so_far + probability / heads for so_far, probability in zip(mean, row, strict=True)
            ]
    return mean


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("missing", [0, 3, 8])
def test_follows_the_formula(group: int, missing: int) -> None:
    view = random_view(group=group, missing=missing)
    expected = score_by_loops(view, formula)
    torch.testing.assert_close(TOVA().score(view).double(), expected, atol=1e-6, rtol=0)


def test_heads_of_a_layer_keep_the_same_and_layers_differ() -> None:
    kept = TOVA().select(random_view(), 8, pinned=NONE.expand(2), recent=NONE.expand(2))
    assert (kept == kept[:, :, :1]).all()
    assert (kept[:, 0] != kept[:, 1]).any()


def test_only_the_last_query_counts() -> None:
    view = random_view()
    assert view.queries is not None
    others = view.queries.clone()
    others[..., :-1, :] = 7.0
    assert torch.equal(TOVA().score(view), TOVA().score(replace(view, queries=others)))


def test_keeps_what_the_last_query_looks_at() -> None:
    keys = [[0.0, 0.0], [0.0, 5.0], [0.0, 0.0], [5.0, 0.0], [0.0, 1.0]]
    kept = TOVA().select(view_of_keys(keys), 2, pinned=NONE, recent=NONE)
    assert kept.flatten().tolist() == [1, 4]
