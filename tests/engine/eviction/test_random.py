"""A die that remembers nothing: uniform, independent, and the same for the same seed."""

from dataclasses import replace

import torch

from engine.eviction.base import CacheView
from engine.eviction.random import RandomAttention
from tests.engine.eviction.caches import heads_of, random_view, score_by_loops

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15


def _mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def formula(view: CacheView, sequence: int, layer: int, head: int) -> list[float]:
    number = layer * view.keys.shape[2] + head
    stream = _mix((_mix(int(view.seeds[sequence]) & MASK) + number * STEP) & MASK)
    positions = view.positions[sequence, layer, head].tolist()
    return [(_mix((stream + p * STEP) & MASK) >> 40) / 2**24 for p in positions]


def _wide(sequences: int, tokens: int) -> CacheView:
    view = random_view(sequences, tokens)
    return replace(view, positions=torch.arange(tokens).int().expand(view.positions.shape))


def test_is_splitmix64() -> None:
    seeds = torch.tensor([0, 1, -1, -(2**63)])  # signs are where int64 arithmetic goes wrong
    view = replace(random_view(sequences=4), seeds=seeds)
    assert torch.equal(RandomAttention().score(view).double(), score_by_loops(view, formula))


def test_scores_are_uniform() -> None:
    scores = RandomAttention().score(_wide(4, 4000)).flatten(0, 2)
    for row in scores:
        counts = torch.histc(row, bins=20, min=0, max=1)
        chi_square = ((counts - 200) ** 2 / 200).sum()
        assert chi_square < 50, "19 degrees of freedom: above 50 with probability 1e-4"


def test_layers_heads_sequences_and_rounds_draw_independently() -> None:
    view = _wide(2, 4000)
    later = replace(view, seeds=view.seeds + 1)
    rows = torch.cat([RandomAttention().score(v).flatten(0, 2) for v in (view, later)])
    assert len(rows) == 2 * len(list(heads_of(view)))
    correlation = torch.corrcoef(rows).fill_diagonal_(0)
    assert correlation.abs().max() < 0.08  # 5 standard errors of 1 / sqrt(4000)
    kept = rows.argsort(dim=-1)[:, :1000]
    shared = len(set(kept[0].tolist()) & set(kept[1].tolist()))
    assert 180 < shared < 320, "a quarter of a quarter, 250, by chance"


def test_the_draw_belongs_to_the_token_not_to_its_slot() -> None:
    view = _wide(1, 50)
    left = replace(view, positions=view.positions[..., 10:])
    scores, after = RandomAttention().score(view), RandomAttention().score(left)
    assert torch.equal(scores[..., 10:], after)
