# mypy: disable-error-code="no-untyped-def"
"""write_kv in numba: one pass over the tokens, in one thread.

A step writes kilobytes; starting a second thread costs more than it saves.
"""

import numpy as np
from numba import njit
from torch import Tensor

NO_MASS = np.zeros((0, 0, 0), np.float32)


@njit(
    "void(float32[:,:,:], float32[:,:,:], int32[:], int64[:], float32[:,:,:,::1], "
    "float32[:,:,:,::1], int32[:,:,::1], float32[:,:,::1])",
    cache=True,
    fastmath=True,
    nogil=True,
)
def _write(key, value, positions, slots, keys, values, slot_positions, slot_mass):
    tokens, kv_heads, head_dim = key.shape
    block_size = keys.shape[2]
    for token in range(tokens):
        slot = slots[token]
        if slot < 0:
            continue
        block, offset = slot // block_size, slot % block_size
        for head in range(kv_heads):
            slot_positions[block, head, offset] = positions[token]
            if slot_mass.size:
                slot_mass[block, head, offset] = 0.0
            for dim in range(head_dim):
                keys[block, head, offset, dim] = key[token, head, dim]
                values[block, head, offset, dim] = value[token, head, dim]


def write_kv(
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    slot_mass: Tensor | None,
) -> None:
    """See `kernels.write_kv.write_kv`; float32 on the CPU."""
    _write(
        key.numpy(),
        value.numpy(),
        positions.numpy(),
        slots.numpy(),
        keys.numpy(),
        values.numpy(),
        slot_positions.numpy(),
        NO_MASS if slot_mass is None else slot_mass.numpy(),
    )
