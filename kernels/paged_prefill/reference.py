"""What paged_prefill means, in torch."""

import torch
from torch import Tensor

from kernels.paged_decode.reference import floats, gather


def paged_prefill(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    query_starts: Tensor,
    scale: float,
    window: int | None,
    slot_positions: Tensor | None,
    query_positions: Tensor | None,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """See `kernels.paged_prefill.paged_prefill`; raises ValueError for starts that do not fit."""
    tokens = query.shape[0]
    out = query.new_zeros(query.shape)
    starts = query_starts.tolist()
    if starts != sorted(starts) or starts[0] != 0 or starts[-1] > tokens:
        raise ValueError(
            f"query_starts are {starts}; expected to ascend from 0 to at most {tokens}"
        )
    for sequence, length in enumerate(lengths.tolist()):
        first, last = starts[sequence], starts[sequence + 1]
        if length < last - first:
            raise ValueError(
                f"sequence {sequence} holds {length} entries but has {last - first} queries"
            )
        if first == last:
            continue
        table = block_tables[sequence]
        key = floats(keys, key_scales, table, length)  # [kv_heads, length, head_dim]
        value = floats(values, value_scales, table, length)
        own = query[first:last].float().transpose(0, 1)  # [heads, q, head_dim]
        own = own.reshape(key.shape[0], -1, last - first, own.shape[2])
        logits = scale * own @ key[:, None].mT  # [kv_heads, group, q, length]
        visible = torch.arange(length - (last - first), length, device=query.device)[:, None]
        hidden = (torch.arange(length, device=query.device) > visible).expand_as(logits)
        if window is not None:
            assert slot_positions is not None
            assert query_positions is not None
            position = gather(slot_positions, table, length)  # [kv_heads, length]
            age = query_positions[first:last, None] - position[:, None]  # [kv_heads, q, length]
            hidden = hidden | (age >= window)[:, None]
        weights = logits.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        # a row that sees nothing is 0 / 0 in softmax; it means zeros
        weights = weights.masked_fill(hidden, 0.0)
        result = weights @ value[:, None]  # [kv_heads, group, q, head_dim]
        out[first:last] = result.permute(2, 0, 1, 3).flatten(1, 2)
    return out
