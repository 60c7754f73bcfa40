"""What write_kv means, in torch."""

import torch
from torch import Tensor

from kernels.checks import FP8_LARGEST


def write_kv(
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    slot_mass: Tensor | None,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> None:
    """See `kernels.write_kv.write_kv`; also raises ValueError for a slot outside the pool."""
    blocks, _, block_size, _ = keys.shape
    real = slots >= 0
    if bool((slots >= blocks * block_size).any()):
        raise ValueError(
            f"slot {int(slots.max())} is outside the pool of {blocks * block_size} slots"
        )
    block, offset = slots[real] // block_size, slots[real] % block_size
    keys[block, :, offset] = stored(key[real], keys.dtype, key_scales)
    values[block, :, offset] = stored(value[real], values.dtype, value_scales)
    slot_positions[block, :, offset] = positions[real, None]
    if slot_mass is not None:
        slot_mass[block, :, offset] = 0.0


def stored(x: Tensor, dtype: torch.dtype, scales: Tensor | None) -> Tensor:
    """`x`, [tokens, kv_heads, head_dim], as a pool of `dtype` holds it; `scales` of an fp8 one."""
    if scales is None:
        return x
    return (x.float() / scales[:, None]).clamp(-FP8_LARGEST, FP8_LARGEST).to(dtype)
