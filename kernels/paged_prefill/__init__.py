"""Attention of packed chunks of new tokens over their sequences' paged caches."""

import torch
from torch import Tensor

from kernels.checks import check_attention, check_vector, check_window
from kernels.impl import Impl, implementation


def paged_prefill(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    query_starts: Tensor,
    *,
    scale: float,
    window: int | None = None,
    slot_positions: Tensor | None = None,
    query_positions: Tensor | None = None,
    key_scales: Tensor | None = None,
    value_scales: Tensor | None = None,
    impl: Impl | str | None = None,
) -> Tensor:
    """Causal softmax attention of the newest tokens of each sequence, several per sequence.

    Sequence s owns query rows query_starts[s] to query_starts[s + 1], its newest tokens in order,
    whose keys and values are already in the cache. Row i of its q rows sees the first lengths[s] -
    q + i + 1 slots. A row's result does not depend on the other rows.

    Args:
        query: [tokens, heads, head_dim], dtype and heads as in `kernels.paged_decode.paged_decode`.
            Rows past query_starts[-1] are padding and give zeros.
        keys, values, block_tables, scale, key_scales, value_scales, impl: as in `paged_decode`.
        lengths: [sequences] int32, KV entries held, the q new ones among them: q to max_blocks *
            block_size (checked by the reference only).
        query_starts: [sequences + 1] int32, ascending from 0, at most tokens (checked by the
            reference only).
        window, slot_positions: as in `paged_decode`; no slot that a row sees passes its position.
        query_positions: [tokens] int32, needed by a window.

    Returns:
        [tokens, heads, head_dim], contiguous, the query's dtype.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, layout, device, window or scale does not fit, or `impl` cannot.
    """
    check_attention(query, keys, values, block_tables, lengths, key_scales, value_scales)
    check_vector("query_starts", query_starts, lengths.shape[0] + 1, torch.int32, keys)
    check_window(window, slot_positions, query_positions, query, keys)
    prefill = implementation("paged_prefill", impl, query)
    cache = (keys, values, block_tables, lengths)
    rest = (slot_positions, query_positions, key_scales, value_scales)
    result: Tensor = prefill(query, *cache, query_starts, scale, window, *rest)
    return result
