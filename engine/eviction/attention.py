"""What the recent queries attend to: one number per cache entry, for policies that rank by it.

Causal by logical position: a query sees the keys whose position is not above its own. Queries that
are missing (negative position), or that see no key, count for nothing.
"""

from dataclasses import replace

import torch

from engine.eviction.base import CacheView
from kernels.window_attention import OverHeads, OverQueries, window_attention


def recent_attention(
    view: CacheView,
    window: int,
    *,
    over_queries: OverQueries = "mean",
    over_heads: OverHeads = "mean",
) -> torch.Tensor:
    """Attention of the newest `window` queries, or of those that the ring has.

    Args:
        view: the caches.
        window: queries.
        over_queries: "mean" over those that exist, their "max" or "sum".
        over_heads: of a KV head's group: "mean" of their probabilities, or "strongest": one softmax
            of each entry's largest logit, softmax_j(max over heads q · k_j).

    Returns:
        [sequences, layers, kv_heads, tokens] float32; zero where no query exists.
    """
    assert view.queries is not None
    assert view.query_positions is not None
    return window_attention(
        view.queries[..., -window:, :],
        view.query_positions[:, -window:],
        view.keys,
        view.positions,
        scale=view.scale,
        over_queries=over_queries,
        over_heads=over_heads,
        impl=view.impl,
    )


def accumulated(view: CacheView, mass: torch.Tensor, since: torch.Tensor) -> torch.Tensor:
    """`mass` with the newest queries counted in.

    Right as long as nothing was evicted since those queries ran: then their softmax over the cache
    is the one the model computed.

    Args:
        view: the caches.
        mass: [sequences, layers, kv_heads, tokens] attention received so far.
        since: [sequences] int64, newest queries of the ring not yet counted.

    Returns:
        As `mass`, a new tensor: plus the probabilities of exactly those queries, summed over the
        query heads of each group.
    """
    assert view.queries is not None
    assert view.query_positions is not None
    recent = view.query_positions.shape[1]
    # The whole ring is handed over whatever `since`: its largest value would cost a wait for the
    # device.
    uncounted = torch.arange(recent, device=since.device) >= recent - since[:, None]
    due = replace(view, query_positions=view.query_positions.where(uncounted, -1))
    group = view.queries.shape[2] // view.keys.shape[2]
    return mass + group * recent_attention(due, recent, over_queries="sum")
