"""What window_attention means, in torch."""

import torch
from torch import Tensor


def window_attention(
    queries: Tensor,
    query_positions: Tensor,
    keys: Tensor,
    positions: Tensor,
    scale: float,
    over_queries: str,
    over_heads: str,
) -> Tensor:
    """See `kernels.window_attention.window_attention`; raises ValueError for positions not in
    order."""
    if bool((positions.diff(dim=-1) <= 0).any()) or bool((positions < 0).any()):
        raise ValueError("positions must be 0 or more and ascend strictly along each cache")
    grouped = queries.float().unflatten(2, (keys.shape[2], -1))  # [.., kv_heads, group, recent, ..]
    logits = scale * grouped @ keys.float().unsqueeze(3).mT  # [.., kv_heads, group, recent, tokens]
    if over_heads == "strongest":
        logits = logits.amax(dim=3, keepdim=True)
    hidden = positions[:, :, :, None, None] > query_positions[:, None, None, None, :, None]
    # a query that sees nothing is 0 / 0 in softmax; it means zeros
    attention = logits.masked_fill(hidden, -torch.inf).softmax(dim=-1).masked_fill(hidden, 0.0)
    attention = attention.mean(dim=3)  # [sequences, layers, kv_heads, recent, tokens]
    if over_queries == "max":
        nothing = attention.new_zeros((*attention.shape[:3], 1, attention.shape[4]))
        return torch.cat([attention, nothing], dim=3).amax(dim=3)
    total = attention.sum(dim=3)
    if over_queries == "sum":
        return total
    present = (query_positions >= 0).sum(dim=1).clamp(min=1)
    return total / present[:, None, None, None]
