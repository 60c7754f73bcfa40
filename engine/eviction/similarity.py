"""How alike the keys of a cache are: cosines of all pairs, in blocks that bound the memory."""

import torch
from torch.nn.functional import normalize

_ROWS = 32  # of one block of cosines


def nearest_newer(keys: torch.Tensor) -> torch.Tensor:
    """Largest cosine of each key to any newer key, at least 0 and at most 1; 0 for the newest.

    Args:
        keys: [..., tokens, head_dim], oldest first.

    Returns:
        [..., tokens].
    """
    units = normalize(keys, dim=-1).flatten(0, -3)  # [caches, tokens, head_dim]
    tokens = units.shape[1]
    nearest = units.new_empty(units.shape[:2])
    # Added to a block's cosines, which start at its own slots: below any cosine where not newer.
    older = torch.full((min(_ROWS, tokens), tokens), -3.0, device=keys.device).tril()
    for start in range(0, tokens, _ROWS):
        rows = units[:, start : start + _ROWS]
        bias = older[: rows.shape[1], : tokens - start]
        cosines = torch.baddbmm(bias, rows, units[:, start:].mT)  # [caches, rows, from start on]
        torch.amax(cosines, dim=-1, out=nearest[:, start : start + _ROWS])
    return nearest.clamp_(0, 1).view(*keys.shape[:-2], tokens)


def mean_similarity(keys: torch.Tensor, threshold: float) -> torch.Tensor:
    """Mean cosine of each key to the others, near-duplicates' newest excused.

    Every key i excuses one key: of those with cosine above `threshold` to it, the newest. The
    cosine of that pair counts as 0 in the excused key's mean.

    Args:
        keys: [..., tokens, head_dim], oldest first.
        threshold: of the cosine, not negative.

    Returns:
        [..., tokens].
    """
    units = normalize(keys, dim=-1).flatten(0, -3)  # [caches, tokens, head_dim]
    caches, tokens, _ = units.shape
    total = units.new_zeros(caches, tokens)
    slots = torch.arange(tokens, device=keys.device, dtype=torch.float32)  # exact below 2**24
    for start in range(0, tokens, _ROWS):
        cosines = torch.bmm(units[:, start : start + _ROWS], units.mT)  # [caches, rows, tokens]
        cosines.diagonal(start, dim1=1, dim2=2).zero_()
        newest = torch.where(cosines > threshold, slots, -1).amax(dim=-1)  # -1: nothing is alike
        own = slots[start : start + _ROWS]
        excused = newest.where(newest >= 0, own)  # its own cosine is 0 already
        cosines.scatter_(-1, excused.long()[..., None], 0)
        total += cosines.sum(dim=1)
    return (total / tokens).view(*keys.shape[:-2], tokens)
