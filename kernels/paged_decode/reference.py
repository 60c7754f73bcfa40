"""What paged_decode means, in torch."""

import torch
from torch import Tensor


def paged_decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None,
    slot_positions: Tensor | None,
    query_positions: Tensor | None,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """See `kernels.paged_decode.paged_decode`; raises ValueError for a length beyond its table."""
    _, heads, head_dim = query.shape
    out = query.new_zeros(query.shape)
    for row, length in enumerate(lengths.tolist()):
        if length == 0:
            continue
        key = floats(keys, key_scales, block_tables[row], length)  # [kv_heads, length, head_dim]
        value = floats(values, value_scales, block_tables[row], length)
        own = query[row].float().reshape(key.shape[0], -1, head_dim)  # [kv_heads, group, head_dim]
        logits = scale * own @ key.mT  # [kv_heads, group, length]
        hidden = torch.zeros_like(logits, dtype=torch.bool)
        if window is not None:
            assert slot_positions is not None
            assert query_positions is not None
            age = query_positions[row] - gather(slot_positions, block_tables[row], length)
            hidden = (age >= window)[:, None].expand_as(logits)
        weights = logits.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        # a row that sees nothing is 0 / 0 in softmax; it means zeros
        weights = weights.masked_fill(hidden, 0.0)
        out[row] = (weights @ value).reshape(heads, head_dim)
    return out


def floats(pool: Tensor, scales: Tensor | None, table: Tensor, length: int) -> Tensor:
    """Keys or values of one sequence as attention reads them, [kv_heads, length, head_dim] float32.

    `scales`: [kv_heads] float32, of an fp8 pool.
    """
    held = gather(pool, table, length).float()
    return held if scales is None else held * scales[:, None, None]


def gather(pool: Tensor, table: Tensor, length: int) -> Tensor:
    """One sequence's first slots, [kv_heads, length, ...] of [blocks, kv_heads, slots, ...]."""
    block_size = pool.shape[2]
    if not 0 <= length <= table.shape[0] * block_size:
        raise ValueError(
            f"length {length} is outside 0 to {table.shape[0] * block_size}, the slots of a table "
            f"of {table.shape[0]} blocks"
        )
    needed = table[: -(-length // block_size)].long()
    if bool(((needed < 0) | (needed >= pool.shape[0])).any()):
        raise ValueError(f"block ids {needed.tolist()} leave the pool of {pool.shape[0]} blocks")
    return pool[needed].transpose(0, 1).flatten(1, 2)[:, :length]
