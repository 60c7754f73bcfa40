"""What key_redundancy means, in torch: cosines in blocks of rows, to bound the memory."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

ROWS = 32  # of one block


def key_redundancy(keys: Tensor, excused_above: float | None) -> Tensor:
    """See `kernels.key_redundancy.key_redundancy`."""
    units = normalize(keys.float(), dim=-1)  # [caches, tokens, head_dim]
    if excused_above is None:
        return nearest_newer(units)
    return mean_cosine(units, excused_above)


def nearest_newer(units: Tensor) -> Tensor:
    """Largest cosine of each unit key to a newer one, [caches, tokens]."""
    nearest = units.new_zeros(units.shape[:2])
    for start in range(0, units.shape[1], ROWS):
        rows = units[:, start : start + ROWS]
        cosines = rows @ units[:, start:].mT  # [caches, rows, from start on]
        newer = torch.ones(cosines.shape[1:], dtype=torch.bool, device=units.device).triu(1)
        nearest[:, start : start + ROWS] = cosines.where(newer, 0).amax(dim=-1)
    return nearest.clamp(0, 1)


def mean_cosine(units: Tensor, excused_above: float) -> Tensor:
    """Mean cosine of each unit key to the others, the newest of near-duplicates excused."""
    total = units.new_zeros(units.shape[:2])
    slots = torch.arange(units.shape[1], device=units.device)
    for start in range(0, units.shape[1], ROWS):
        cosines = units[:, start : start + ROWS] @ units.mT  # [caches, rows, tokens]
        cosines.diagonal(start, dim1=1, dim2=2).zero_()
        newest = torch.where(cosines > excused_above, slots, -1).amax(dim=-1)  # -1: none is alike
        excused = newest.where(newest >= 0, slots[start : start + ROWS])  # its own is 0 already
        total += cosines.scatter(-1, excused[..., None], 0).sum(dim=1)
    return total / units.shape[1]
