"""Writes a step's new keys and values into one layer of the paged cache."""

import torch
from torch import Tensor

from kernels.checks import LAYER_POOL, check_pool, check_rows, check_slots, check_vector
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
    impl: Impl | str | None = None,
) -> None:
    """Stores each token's key, value and position in its slot, in place.

    Args:
        key, value: [tokens, kv_heads, head_dim], the pool's dtype; any strides, such as a
            transposed view.
        positions: [tokens] int32, logical positions in the sequence.
        slots: [tokens] int64, block * block_size + offset; negative skips the token (padding).
            Slots that are not negative differ from each other and lie in the pool (checked by the
            reference only).
        keys, values: [blocks, kv_heads, block_size, head_dim], contiguous; written.
        slot_positions: [blocks, kv_heads, block_size] int32; written.
        slot_mass: [blocks, kv_heads, block_size] float32, the attention each slot has received; the
            written slots become 0. None if nothing keeps it.
        impl: None chooses by device; see `kernels.impl`.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, layout or device does not fit, or `impl` cannot take these tensors.
    """
    check_pool(keys, values, LAYER_POOL)
    check_rows("key", key, keys)
    check_rows("value", value, keys)
    if key.shape[1] != keys.shape[1] or value.shape != key.shape:
        raise ValueError(
            f"key has shape {tuple(key.shape)}, value {tuple(value.shape)}; expected both "
            f"[tokens, {keys.shape[1]}, {keys.shape[3]}] to match keys {tuple(keys.shape)}"
        )
    tokens = key.shape[0]
    check_vector("positions", positions, tokens, torch.int32, keys)
    check_vector("slots", slots, tokens, torch.int64, keys)
    check_slots("slot_positions", slot_positions, keys, torch.int32)
    if slot_mass is not None:
        check_slots("slot_mass", slot_mass, keys, torch.float32)
    write = implementation("write_kv", impl, keys)
    write(key, value, positions, slots, keys, values, slot_positions, slot_mass)
