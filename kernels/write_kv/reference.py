"""What write_kv means, in torch."""

from torch import Tensor


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
    """See `kernels.write_kv.write_kv`; also raises ValueError for a slot outside the pool."""
    blocks, _, block_size, _ = keys.shape
    real = slots >= 0
    if bool((slots >= blocks * block_size).any()):
        raise ValueError(
            f"slot {int(slots.max())} is outside the pool of {blocks * block_size} slots"
        )
    block, offset = slots[real] // block_size, slots[real] % block_size
    keys[block, :, offset] = key[real]
    values[block, :, offset] = value[real]
    slot_positions[block, :, offset] = positions[real, None]
    if slot_mass is not None:
        slot_mass[block, :, offset] = 0.0
