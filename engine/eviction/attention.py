"""What the recent queries attend to: probabilities over a cache, for policies that rank by them.

Causal by logical position: a query sees the keys whose position is not above its own. Rows of
queries that are missing (negative position), or that see no key, are zero. Where a view has fewer
queries than asked for, its shape says how many there were.
"""

from dataclasses import replace

import torch

from engine.eviction.base import CacheView


def window_attention(view: CacheView, window: int) -> torch.Tensor:
    """Probabilities of the newest `window` queries over the cache, in each query head.

    Returns:
        [sequences, layers, heads, min(window, recent), tokens] float32.
    """
    return _causal_softmax(view, _grouped_logits(view, window)).flatten(2, 3)


def group_attention(view: CacheView, window: int) -> torch.Tensor:
    """As `window_attention`, of each group's strongest logit: softmax_j(max over heads q · k_j).

    Returns:
        [sequences, layers, kv_heads, min(window, recent), tokens] float32.
    """
    strongest = _grouped_logits(view, window).amax(dim=3, keepdim=True)
    return _causal_softmax(view, strongest).squeeze(3)


def mean_over_queries(view: CacheView, attention: torch.Tensor) -> torch.Tensor:
    """Mean over the queries that exist.

    Args:
        view: whose attention it is.
        attention: [sequences, layers, heads, window, tokens] of its newest queries.

    Returns:
        [sequences, layers, heads, tokens]; zero where no query exists.
    """
    assert view.query_positions is not None
    present = (view.query_positions[:, -attention.shape[3] :] >= 0).sum(dim=1).clamp(min=1)
    return attention.sum(dim=3) / present[:, None, None, None]


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
    assert view.query_positions is not None
    recent = view.query_positions.shape[1]
    # The whole ring is computed whatever `since`: its largest value would cost a wait for the
    # device, and make rounding depend on the other sequences.
    uncounted = torch.arange(recent, device=since.device) >= recent - since[:, None]
    due = replace(view, query_positions=view.query_positions.where(uncounted, -1))
    received = [
        window_attention(part, recent).view(*part.keys.shape[:3], -1, mass.shape[3]).sum(dim=3)
        for part in due.parts()
    ]
    return mass + torch.cat(received)


def _grouped_logits(view: CacheView, window: int) -> torch.Tensor:
    """[sequences, layers, kv_heads, group, window, tokens], not masked."""
    assert view.queries is not None
    sequences, layers, kv_heads, tokens, head_dim = view.keys.shape
    queries = view.queries[..., -window:, :]
    rows = queries.reshape(sequences * layers * kv_heads, -1, head_dim)  # [.., group * window, ..]
    zero = rows.new_zeros(())
    logits = torch.baddbmm(zero, rows, view.keys.flatten(0, 2).mT, beta=0, alpha=view.scale)
    return logits.view(sequences, layers, kv_heads, -1, queries.shape[3], tokens)


def _causal_softmax(view: CacheView, logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the keys that each query sees.

    Args:
        view: the caches.
        logits: [sequences, layers, kv_heads, group, window, tokens]; overwritten.
    """
    assert view.query_positions is not None
    window = logits.shape[4]
    asking = view.query_positions[:, None, None, -window:]
    # Queries are consecutive up to the newest entry, so what is hidden is among the newest slots.
    hidden = view.positions[..., None, -window:] > asking[..., None]
    least = torch.finfo(logits.dtype).min
    logits[..., -window:].masked_fill_(hidden.unsqueeze(3), least)
    # A query that does not see the oldest key sees none: softmax is meaningless, zeros are meant.
    sighted = view.positions[..., :1] <= asking  # [sequences, layers, kv_heads, window]
    return logits.softmax(dim=-1).mul_(sighted[..., None, :, None])
