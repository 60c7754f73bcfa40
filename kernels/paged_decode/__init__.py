"""Attention of one new token per sequence over its paged cache.

A pool may hold float8_e4m3fn, which this and the other operations on pools read and write on CPUs,
on AMD GPUs, and on NVIDIA ones from compute capability 8.9; Triton raises on older ones.
"""

from torch import Tensor

from kernels.checks import check_attention, check_window
from kernels.impl import Impl, implementation


def paged_decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    window: int | None = None,
    slot_positions: Tensor | None = None,
    query_positions: Tensor | None = None,
    key_scales: Tensor | None = None,
    value_scales: Tensor | None = None,
    impl: Impl | str | None = None,
) -> Tensor:
    """Softmax attention of each sequence's query over the first `lengths` slots of its blocks.

    A row's result does not depend on the other rows, nor on the table's width up to 16,384 slots.

    Args:
        query: [sequences, heads, head_dim], the pool's dtype, or with an fp8 pool float32, bfloat16
            or float16; heads = group * kv_heads, query head h reads KV head h // group.
        keys, values: [blocks, kv_heads, block_size, head_dim], contiguous, float32, bfloat16,
            float16 or float8_e4m3fn. What an fp8 pool holds is multiplied by the head's scale.
        block_tables: [sequences, max_blocks] int32, the pool block of each run of block_size slots;
            entries beyond the needed ones are never read.
        lengths: [sequences] int32, KV entries held, the new token's own among them, at most
            max_blocks * block_size (checked by the reference only). 0 gives a row of zeros.
        scale: multiplies the dot products, usually head_dim ** -0.5.
        window: only slots with query position - slot position < window count; None: all do.
        slot_positions: [blocks, kv_heads, block_size] int32, needed by a window. In each head they
            ascend strictly and never pass the query's, so older slots may be skipped unread.
        query_positions: [sequences] int32, needed by a window.
        key_scales, value_scales: [kv_heads] float32, positive; with an fp8 pool, and only then.
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [sequences, heads, head_dim], contiguous, the query's dtype.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, layout, device, window or scale does not fit, or `impl` cannot.
    """
    check_attention(query, keys, values, block_tables, lengths, key_scales, value_scales)
    if query.shape[0] != lengths.shape[0]:
        raise ValueError(f"query has {query.shape[0]} rows, lengths {lengths.shape[0]}; give equal")
    check_window(window, slot_positions, query_positions, query, keys)
    decode = implementation("paged_decode", impl, query)
    rest = (slot_positions, query_positions, key_scales, value_scales)
    return decode(query, keys, values, block_tables, lengths, scale, window, *rest)
