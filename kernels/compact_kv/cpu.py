# mypy: disable-error-code="no-untyped-def"
"""compact_kv in numba: a task is one sequence, layer and head; its slots move in order."""

import numpy as np
from numba import njit, prange
from torch import Tensor

SIGNATURE = (
    "void({pool}[:,:,:,:,::1], {pool}[:,:,:,:,::1], int32[:,:,:,::1], int32[:,:], "
    "{kept}[:,:,:,::1], float32[:,:,:,::1])"
)
NO_MASS = np.zeros((0, 0, 0, 0), np.float32)


@njit(
    [
        SIGNATURE.format(pool=pool, kept=kept)
        for pool in ("float32", "uint8")
        for kept in ("int32", "int64")
    ],
    parallel=True,
    cache=True,
    fastmath=True,
    nogil=True,
)
def _compact(keys, values, slot_positions, block_tables, kept, slot_mass):
    sequences, layers, kv_heads, count = kept.shape
    block_size, head_dim = keys.shape[3], keys.shape[4]
    for task in prange(sequences * layers * kv_heads):
        sequence = task // (layers * kv_heads)
        layer = task // kv_heads % layers
        head = task % kv_heads
        table = block_tables[sequence]
        for target in range(count):
            source = kept[sequence, layer, head, target]
            if source == target:
                continue
            old, old_slot = table[source // block_size], source % block_size
            new, new_slot = table[target // block_size], target % block_size
            slot_positions[layer, new, head, new_slot] = slot_positions[layer, old, head, old_slot]
            if slot_mass.size:
                slot_mass[layer, new, head, new_slot] = slot_mass[layer, old, head, old_slot]
            for dim in range(head_dim):
                keys[layer, new, head, new_slot, dim] = keys[layer, old, head, old_slot, dim]
                values[layer, new, head, new_slot, dim] = values[layer, old, head, old_slot, dim]


def compact_kv(
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    block_tables: Tensor,
    kept: Tensor,
    slot_mass: Tensor | None,
) -> None:
    """See `kernels.compact_kv.compact_kv`; float32 or uint8, on the CPU."""
    _compact(
        keys.numpy(),
        values.numpy(),
        slot_positions.numpy(),
        block_tables.numpy(),
        kept.numpy(),
        NO_MASS if slot_mass is None else slot_mass.numpy(),
    )
