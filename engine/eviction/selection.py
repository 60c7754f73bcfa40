"""What policies need that select by more than one score, or whole blocks."""

import torch


def protected(tokens: int, pinned: torch.Tensor, recent: torch.Tensor) -> torch.Tensor:
    """Entries that stay whatever their score, [sequences, tokens] bool.

    Args:
        tokens: entries of each cache.
        pinned: [sequences] int64, how many of the oldest.
        recent: [sequences] int64, how many of the newest.
    """
    slots = torch.arange(tokens, device=pinned.device)
    return (slots < pinned[:, None]) | (slots >= tokens - recent[:, None])


def lowest_blocks(scores: torch.Tensor, size: int, count: int) -> list[int]:
    """Indices of the `count` blocks of `size` entries that score lowest; of equals the older.

    Args:
        scores: [layers, kv_heads, blocks * size]; a block's is the mean over all of its entries.
    """
    means = scores.double().unflatten(-1, (-1, size)).mean((0, 1, 3))
    lowest: list[int] = means.argsort(stable=True)[:count].tolist()
    return lowest


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """int64 that order as `scores` (float32, no NaN) do, and equals by slot, newer above older.

    Without ties, the cheapest selection on each device gives the same answer.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are equals
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # IEEE floats order as sign and magnitude
    slots = torch.arange(scores.shape[-1], device=scores.device)
    return (ascending.long() << 32) | slots
