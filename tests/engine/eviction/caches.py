"""Random caches as the engine makes them, and the attention over them by plain float64 loops."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from engine.eviction.base import BY_SEQUENCE, CacheView
from engine.kv_pool import KvShape
from tests.engine.eviction.artifacts import random_artifacts

GROUPS = (1, 2, 4, 7)


def random_view(
    sequences: int = 2,
    tokens: int = 24,
    group: int = 2,
    recent: int = 8,
    missing: int = 0,
    seed: int = 0,
) -> CacheView:
    """Caches with evicted tokens between the kept ones, differing per layer and head.

    The newest eight entries are without gaps, and each sequence stands at a position of its own.
    Sequence i lacks its oldest `missing * i` queries. The artifact holds what any policy reads.
    """
    layers, kv_heads, head_dim = 2, 3, 8
    heads = kv_heads * group
    sizes = KvShape(layers, heads, kv_heads, head_dim, hidden_size=16, dtype=torch.float32)
    draw = torch.Generator().manual_seed(seed)
    shape = (sequences, layers, kv_heads, tokens)
    gaps = torch.randint(1, 4, shape, generator=draw)
    gaps[..., -8:] = 1
    ends = 4 * tokens + torch.arange(sequences)  # newest positions
    positions = ends[:, None, None, None] + gaps.cumsum(-1) - gaps.sum(-1, keepdim=True)
    query_positions = ends[:, None] - torch.arange(recent - 1, -1, -1)
    lacking = torch.arange(recent) < missing * torch.arange(sequences)[:, None]
    return CacheView(
        keys=torch.randn(*shape, head_dim, generator=draw),
        values=torch.randn(*shape, head_dim, generator=draw),
        positions=positions.int(),
        queries=torch.randn(sequences, layers, heads, recent, head_dim, generator=draw),
        query_positions=query_positions.masked_fill(lacking, -1).int(),
        mass=torch.rand(shape, generator=draw) * 9,
        scale=head_dim**-0.5,
        seeds=torch.randint(-(2**62), 2**62, (sequences,), generator=draw),
        prompt_tokens=positions[:, 0, 0, tokens // 4].long(),
        frequencies=torch.rand(layers, head_dim // 2, generator=draw, dtype=torch.float64) ** 4,
        artifact={k: v for file in random_artifacts(sizes, seed).values() for k, v in file.items()},
        importance=torch.rand(shape, generator=draw),
    )


def view_of_keys(keys: list[list[float]]) -> CacheView:
    """One sequence, layer and head with these keys; queries are the keys' own."""
    own = torch.tensor(keys)[None, None, None]
    positions = torch.arange(len(keys), dtype=torch.int32)
    return CacheView(
        keys=own,
        values=own,
        positions=positions[None, None, None],
        queries=own,
        query_positions=positions[None],
        mass=torch.zeros(own.shape[:-1]),
        scale=1.0,
        seeds=torch.zeros(1, dtype=torch.int64),
        prompt_tokens=torch.zeros(1, dtype=torch.int64),
    )


def one_sequence(view: CacheView, index: int) -> CacheView:
    """The same view with one of its sequences only."""
    part: dict[str, Any] = {name: getattr(view, name)[index : index + 1] for name in BY_SEQUENCE}
    return replace(view, **part)


def heads_of(view: CacheView) -> Iterator[tuple[int, int, int]]:
    """Every (sequence, layer, KV head)."""
    sequences, layers, kv_heads = view.keys.shape[:3]
    return itertools.product(range(sequences), range(layers), range(kv_heads))


def score_by_loops(
    view: CacheView, score: Callable[[CacheView, int, int, int], list[float]]
) -> torch.Tensor:
    """What `score(view, sequence, layer, kv_head)` says of each, as a policy would return it."""
    rows = [score(view, *head) for head in heads_of(view)]
    return torch.tensor(rows, dtype=torch.float64).view(view.keys.shape[:4])


def logits_of(view: CacheView, sequence: int, layer: int, head: int, query: int) -> list[float]:
    """Scaled products of one query with the keys of its head, -inf where the key is newer."""
    assert view.queries is not None
    assert view.query_positions is not None
    kv_head = head // (view.queries.shape[2] // view.keys.shape[2])
    asking = view.queries[sequence, layer, head, query].tolist()
    asked_at = int(view.query_positions[sequence, query])
    keys = view.keys[sequence, layer, kv_head].tolist()
    positions = view.positions[sequence, layer, kv_head].tolist()
    products = [sum(a * b for a, b in zip(asking, key, strict=True)) * view.scale for key in keys]
    return [
        product if position <= asked_at else -math.inf
        for product, position in zip(products, positions, strict=True)
    ]


def softmax(logits: list[float]) -> list[float]:
    """Zeros where every logit is -inf."""
    top = max(logits)
    if top == -math.inf:
        return [0.0] * len(logits)
    weights = [math.exp(x - top) for x in logits]
    total = sum(weights)
    return [weight / total for weight in weights]


def group_heads(view: CacheView, kv_head: int) -> range:
    """The query heads that read one KV head."""
    assert view.queries is not None
    group = view.queries.shape[2] // view.keys.shape[2]
    return range(kv_head * group, (kv_head + 1) * group)


def present_queries(view: CacheView, sequence: int, window: int) -> list[int]:
    """Indices of the newest `window` queries that exist."""
    assert view.query_positions is not None
    recent = view.query_positions.shape[1]
    newest = range(max(0, recent - window), recent)
    return [query for query in newest if view.query_positions[sequence, query] >= 0]


def cosine(a: list[float], b: list[float]) -> float:
    """0 if one of them is zero."""
    norms = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


def coarse(score: float) -> float:
    """To 12 significant bits: scores that a policy takes for equal if only rounding differs."""
    mantissa, exponent = math.frexp(score)
    return math.ldexp(round(mantissa * 4096) / 4096, exponent)
