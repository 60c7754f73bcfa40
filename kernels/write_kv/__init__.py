"""Writes a step's new keys and values into one layer of the paged cache."""

import torch
from torch import Tensor

from kernels.checks import (
    LAYER_POOL,
    check_new,
    check_pool,
    check_scales,
    check_slots,
    check_vector,
)
from kernels.impl import Impl, implementation


def write_kv(
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    *,
    slot_mass: Tensor | None = None,
    key_scales: Tensor | None = None,
    value_scales: Tensor | None = None,
    impl: Impl | str | None = None,
) -> None:
    """Stores each token's key, value and position in its slot, in place.

    In an fp8 pool x is stored as clamp(x / scale, -448, 448), divided in float32 and rounded to the
    nearest code, ties to even; NaN stays NaN.

    Args:
        key, value: [tokens, kv_heads, head_dim], the pool's dtype, or with an fp8 pool both
            float32, bfloat16 or float16; any strides, such as a transposed view.
        positions: [tokens] int32, logical positions in the sequence.
        slots: [tokens] int64, block * block_size + offset; negative skips the token (padding).
            Slots that are not negative differ from each other and lie in the pool (checked by the
            reference only).
        keys, values: [blocks, kv_heads, block_size, head_dim], contiguous, float32, bfloat16,
            float16 or float8_e4m3fn; written.
        slot_positions: [blocks, kv_heads, block_size] int32; written.
        slot_mass: [blocks, kv_heads, block_size] float32, the attention each slot has received; the
            written slots become 0. None if nothing keeps it.
        key_scales, value_scales: [kv_heads] float32, positive; with an fp8 pool, and only then.
        impl: None chooses by device; see `kernels.impl`, and `kernels.paged_decode` for fp8.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, layout, device or scale does not fit, or `impl` cannot take these.
    """
    check_pool(keys, values, LAYER_POOL)
    check_scales(key_scales, value_scales, keys)
    check_new(key, value, keys)
    tokens = key.shape[0]
    check_vector("positions", positions, tokens, torch.int32, keys)
    check_vector("slots", slots, tokens, torch.int64, keys)
    check_slots("slot_positions", slot_positions, keys, torch.int32)
    if slot_mass is not None:
        check_slots("slot_mass", slot_mass, keys, torch.float32)
    write = implementation("write_kv", impl, key)
    pool = (keys, values, slot_positions, slot_mass)
    write(key, value, positions, slots, *pool, key_scales, value_scales)
