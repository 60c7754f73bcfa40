# mypy: disable-error-code="no-untyped-def"
"""write_kv in numba: one pass over the tokens, in one thread.

A step writes kilobytes; starting a second thread costs more than it saves.
"""

import numpy as np
from numba import njit
from torch import Tensor, uint8

from kernels.checks import FP8_LARGEST

F = np.float32
LARGEST = F(FP8_LARGEST)
NO_MASS = np.zeros((0, 0, 0), np.float32)
ROWS = "float32[:,:,:], float32[:,:,:], int32[:], int64[:], "
POOLS = "{pool}[:,:,:,::1], {pool}[:,:,:,::1], int32[:,:,::1], float32[:,:,::1]"


@njit(
    f"void({ROWS}{POOLS.format(pool='float32')})",
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


@njit(nogil=True)
def _encode(x):
    """The float8_e4m3fn code of clamp(x, -448, 448), rounded to nearest even; NaN stays NaN."""
    bounded = F(min(max(x, -LARGEST), LARGEST))
    bits = F(bounded).view(np.int32)
    size = bits & np.int32(0x7FFFFFFF)
    even = (size >> np.int32(20)) & np.int32(1)
    normal = (size - np.int32(120 << 23) + np.int32(0x7FFFF) + even) >> np.int32(20)
    # below 2 ** -6 codes are multiples of 2 ** -9, which is the last place of 2 ** 14
    tiny = F(abs(bounded) + F(16384.0)).view(np.int32) - np.int32(141 << 23)
    code = tiny if size < np.int32(121 << 23) else normal
    if x != x:
        return np.uint8(0x7F)
    return np.uint8(code | ((bits >> np.int32(24)) & np.int32(0x80)))


@njit(  # without fastmath: quotients, ties and NaN are to be exact
    f"void({ROWS}{POOLS.format(pool='uint8')}, float32[:], float32[:])",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def _write_fp8(
    key, value, positions, slots, keys, values, slot_positions, slot_mass, key_scales, value_scales
):
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
            of_keys, of_values = key_scales[head], value_scales[head]
            for dim in range(head_dim):
                keys[block, head, offset, dim] = _encode(key[token, head, dim] / of_keys)
                values[block, head, offset, dim] = _encode(value[token, head, dim] / of_values)


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
    """See `kernels.write_kv.write_kv`; float32 on the CPU, its pool float32 or fp8."""
    rows = (key.numpy(), value.numpy(), positions.numpy(), slots.numpy())
    rest = (slot_positions.numpy(), NO_MASS if slot_mass is None else slot_mass.numpy())
    if key_scales is None or value_scales is None:
        _write(*rows, keys.numpy(), values.numpy(), *rest)
        return
    codes = (keys.view(uint8).numpy(), values.view(uint8).numpy())
    _write_fp8(*rows, *codes, *rest, key_scales.numpy(), value_scales.numpy())
