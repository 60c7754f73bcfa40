"""Closes the gaps that eviction leaves: moves kept slots to the front, in every layer and head."""

import torch
from torch import Tensor

from kernels.checks import FP8, INTS, WHOLE_POOL, check_pool, check_slots, check_tables
from kernels.impl import Impl, implementation


def compact_kv(
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    block_tables: Tensor,
    kept: Tensor,
    *,
    slot_mass: Tensor | None = None,
    impl: Impl | str | None = None,
) -> None:
    """Slot i of each sequence, layer and head becomes what slot kept[i] was, in place.

    A slot with kept[i] == i is neither read nor written, nor is its table entry, so sequences of
    one call may share the blocks of a pinned prefix. Blocks in which anything moves belong to one
    sequence. A sequence that keeps fewer than count slots is padded with kept[i] = i.

    Args:
        keys, values: [layers, blocks, kv_heads, block_size, head_dim], contiguous, float32,
            bfloat16, float16 or float8_e4m3fn; written, bit for bit, so that fp8 needs no scales.
        slot_positions: [layers, blocks, kv_heads, block_size] int32; written.
        block_tables: [sequences, max_blocks] int32, the pool block of each run of block_size slots.
        kept: [sequences, layers, kv_heads, count] int32 or int64, contiguous, slots of the
            sequence. Apart from the padding they ascend strictly, so that kept[i] >= i and moving
            in order is safe (checked by the reference only).
        slot_mass: [layers, blocks, kv_heads, block_size] float32, moves along; None: not kept.
        impl: None chooses by device; see `kernels.impl`.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, layout or device does not fit, or `impl` cannot take these tensors.
    """
    check_pool(keys, values, WHOLE_POOL)
    check_slots("slot_positions", slot_positions, keys, torch.int32)
    check_tables(block_tables, keys)
    if kept.dtype not in INTS:
        raise TypeError(f"kept is {kept.dtype}; allowed: int32, int64")
    expected = (block_tables.shape[0], keys.shape[0], keys.shape[2])
    if kept.ndim != 4 or kept.shape[:3] != expected or not kept.is_contiguous():
        raise ValueError(
            f"kept has shape {tuple(kept.shape)} and strides {kept.stride()}; expected contiguous "
            f"[{expected[0]}, {expected[1]}, {expected[2]}, count] (sequences, layers, kv_heads)"
        )
    if kept.device != keys.device:
        raise ValueError(f"kept is on {kept.device}, keys on {keys.device}; one device needed")
    if slot_mass is not None:
        check_slots("slot_mass", slot_mass, keys, torch.float32)
    compact = implementation("compact_kv", impl, keys)
    if keys.dtype is FP8:  # bytes, which every implementation can move
        keys, values = keys.view(torch.uint8), values.view(torch.uint8)
    compact(keys, values, slot_positions, block_tables, kept, slot_mass)
