# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""write_kv in Triton: one program per token, all heads in one tile."""

import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def write_kv_kernel(
    key,
    value,
    positions,
    slots,
    keys,
    values,
    slot_positions,
    slot_mass,
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
    tl.store(keys + target, tl.load(key + source, mask=mask), mask=mask)
    source = (
        token * value_token_stride
        + head[:, None] * value_head_stride
        + dim[None, :] * value_dim_stride
    )
    tl.store(values + target, tl.load(value + source, mask=mask), mask=mask)

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
        *key.stride(),
        *value.stride(),
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=keys.shape[2],
        HAS_MASS=slot_mass is not None,
        BLOCK_KV_HEADS=triton.next_power_of_2(kv_heads),
        BLOCK_DIM=triton.next_power_of_2(head_dim),
    )
