# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""write_kv in Triton: one program per token, all heads in one tile."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.arithmetic import divide, narrow
from kernels.checks import FP8_LARGEST

LARGEST = tl.constexpr(FP8_LARGEST)


@triton.jit
def to_fp8(number, scales, real_head):
    """The tile `number`, [kv_heads, head_dim], as an fp8 pool holds it; `scales`: pointers."""
    divisor = tl.load(scales, mask=real_head, other=1.0)
    ratio = divide(number, divisor[:, None])
    bounded = tl.clamp(ratio, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
    return narrow(bounded, tl.float8e4nv)


@triton.jit(do_not_specialize_on_alignment=["positions", "slots", "key_scales", "value_scales"])
def write_kv_kernel(
    key,
    value,
    positions,
    slots,
    keys,
    values,
    slot_positions,
    slot_mass,
    key_scales,  # [kv_heads], of an fp8 pool
    value_scales,
    key_token_stride,
    key_head_stride,
    key_dim_stride,
    value_token_stride,
    value_head_stride,
    value_dim_stride,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_MASS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    BLOCK_KV_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if slot < 0:
        return
    head = tl.arange(0, BLOCK_KV_HEADS).to(tl.int64)
    dim = tl.arange(0, BLOCK_DIM)
    real_head = head < KV_HEADS
    mask = real_head[:, None] & (dim < HEAD_DIM)[None, :]
    row = (slot // BLOCK_SIZE * KV_HEADS + head) * BLOCK_SIZE + slot % BLOCK_SIZE  # [kv_heads]
    target = row[:, None] * HEAD_DIM + dim[None, :]  # [kv_heads, head_dim]

    source = (
        token * key_token_stride + head[:, None] * key_head_stride + dim[None, :] * key_dim_stride
    )
    number = tl.load(key + source, mask=mask)
    if HAS_SCALES:
        number = to_fp8(number, key_scales + head, real_head)
    tl.store(keys + target, number, mask=mask)
    source = (
        token * value_token_stride
        + head[:, None] * value_head_stride
        + dim[None, :] * value_dim_stride
    )
    number = tl.load(value + source, mask=mask)
    if HAS_SCALES:
        number = to_fp8(number, value_scales + head, real_head)
    tl.store(values + target, number, mask=mask)

    position = tl.load(positions + token)
    tl.store(slot_positions + row, tl.zeros_like(row).to(tl.int32) + position, mask=real_head)
    if HAS_MASS:
        tl.store(slot_mass + row, tl.zeros_like(row).to(tl.float32), mask=real_head)


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
    """See `kernels.write_kv.write_kv`."""
    tokens, kv_heads, head_dim = key.shape
    if tokens == 0:
        return
    write_kv_kernel[(tokens,)](
        key,
        value,
        positions,
        slots,
        keys,
        values,
        slot_positions,
        slot_positions if slot_mass is None else slot_mass,
        slot_positions if key_scales is None else key_scales,
        slot_positions if value_scales is None else value_scales,
        *key.stride(),
        *value.stride(),
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=keys.shape[2],
        HAS_MASS=slot_mass is not None,
        HAS_SCALES=key_scales is not None,
        BLOCK_KV_HEADS=triton.next_power_of_2(kv_heads),
        BLOCK_DIM=triton.next_power_of_2(head_dim),
    )
