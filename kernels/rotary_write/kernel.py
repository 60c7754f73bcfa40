# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""rotary_write in Triton: one program per token, its query heads in one tile, its key and value
heads in others.

A number and its partner in the rotation are loaded as two tiles; the second comes from the L1
cache, where exchanging lanes would need shared memory.
"""

import triton
import triton.language as tl
from torch import Tensor

from kernels.arithmetic import narrow


@triton.jit
def turn(
    places,
    real_head,
    norm,
    cos,
    sin,
    eps,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    HAS_NORM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """[heads, BLOCK_DIM], the heads that start at `places`, normalised and rotated."""
    half: tl.constexpr = ROTARY_DIM // 2
    dtype: tl.constexpr = places.dtype.element_ty
    dim = tl.arange(0, BLOCK_DIM)
    turning, first = dim < ROTARY_DIM, dim < half
    partner = tl.where(turning, tl.where(first, dim + half, dim - half), dim)
    mask = real_head[:, None] & (dim < HEAD_DIM)[None, :]
    x = tl.load(places[:, None] + dim[None, :], mask=mask, other=0.0).to(tl.float32)
    y = tl.load(places[:, None] + partner[None, :], mask=mask, other=0.0).to(tl.float32)
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(x * x, 1) / HEAD_DIM + eps)[:, None]
        x_weight = tl.load(norm + dim, mask=dim < HEAD_DIM, other=0.0).to(tl.float32)
        y_weight = tl.load(norm + partner, mask=dim < HEAD_DIM, other=0.0).to(tl.float32)
        x = narrow(x * scale, dtype).to(tl.float32) * x_weight[None, :]
        y = narrow(y * scale, dtype).to(tl.float32) * y_weight[None, :]
        x = narrow(x, dtype).to(tl.float32)
        y = narrow(y, dtype).to(tl.float32)
    cosine = tl.load(cos + dim, mask=turning, other=0.0).to(tl.float32)
    sine = tl.load(sin + dim, mask=turning, other=0.0).to(tl.float32)
    left = x * cosine[None, :]
    right = y * tl.where(first, -sine, sine)[None, :]
    if cos.dtype.element_ty == dtype:
        left = narrow(left, dtype).to(tl.float32)
        right = narrow(right, dtype).to(tl.float32)
    return narrow(tl.where(turning[None, :], left + right, x), dtype)


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def rotary_write_kernel(
    qkv,
    cos,
    sin,
    positions,
    slots,
    keys,
    values,
    slot_positions,
    slot_mass,
    query_norm,
    key_norm,
    out,
    qkv_stride,
    cos_stride,
    sin_stride,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_QUERY_NORM: tl.constexpr,
    HAS_KEY_NORM: tl.constexpr,
    HAS_MASS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_KV_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    row = qkv + token * qkv_stride
    cos += token * cos_stride
    sin += token * sin_stride
    dim = tl.arange(0, BLOCK_DIM)
    real_dim = (dim < HEAD_DIM)[None, :]

    head = tl.arange(0, BLOCK_HEADS)
    real = head < HEADS
    places = row + head * HEAD_DIM
    query = turn(
        places, real, query_norm, cos, sin, eps, HEAD_DIM, ROTARY_DIM, HAS_QUERY_NORM, BLOCK_DIM
    )
    target = ((token * HEADS + head) * HEAD_DIM)[:, None] + dim[None, :]
    tl.store(out + target, query, mask=real[:, None] & real_dim)

    slot = tl.load(slots + token)
    head = tl.arange(0, BLOCK_KV_HEADS)
    real = (head < KV_HEADS) & (slot >= 0)
    mask = real[:, None] & real_dim
    place = (slot // BLOCK_SIZE * KV_HEADS + head) * BLOCK_SIZE + slot % BLOCK_SIZE  # [kv_heads]
    target = place[:, None] * HEAD_DIM + dim[None, :]
    places = row + (HEADS + head) * HEAD_DIM
    key = turn(places, real, key_norm, cos, sin, eps, HEAD_DIM, ROTARY_DIM, HAS_KEY_NORM, BLOCK_DIM)
    tl.store(keys + target, key, mask=mask)
    value = tl.load(places[:, None] + KV_HEADS * HEAD_DIM + dim[None, :], mask=mask)
    tl.store(values + target, value, mask=mask)

    position = tl.load(positions + token)
    tl.store(slot_positions + place, tl.zeros_like(head) + position, mask=real)
    if HAS_MASS:
        tl.store(slot_mass + place, tl.zeros_like(head).to(tl.float32), mask=real)


def tile_options(heads: int, kv_heads: int, head_dim: int) -> dict[str, int]:
    """The tiles of a program, 32 query numbers per lane of 32 at most up to 8 warps."""
    block_heads, block_dim = triton.next_power_of_2(heads), triton.next_power_of_2(head_dim)
    return {
        "BLOCK_HEADS": block_heads,
        "BLOCK_KV_HEADS": triton.next_power_of_2(kv_heads),
        "BLOCK_DIM": block_dim,
        "num_warps": min(max(block_heads * block_dim // 1024, 1), 8),
    }


def rotary_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    slot_mass: Tensor | None,
) -> Tensor:
    """See `kernels.rotary_write.rotary_write`."""
    tokens, rotary_dim = cos.shape
    _, kv_heads, block_size, head_dim = keys.shape
    out = qkv.new_empty((tokens, heads, head_dim))
    if tokens:
        rotary_write_kernel[(tokens,)](
            qkv,
            cos,
            sin,
            positions,
            slots,
            keys,
            values,
            slot_positions,
            slot_positions if slot_mass is None else slot_mass,
            qkv if query_norm is None else query_norm,
            qkv if key_norm is None else key_norm,
            out,
            qkv.stride(0),
            cos.stride(0),
            sin.stride(0),
            eps,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            ROTARY_DIM=rotary_dim,
            BLOCK_SIZE=block_size,
            HAS_QUERY_NORM=query_norm is not None,
            HAS_KEY_NORM=key_norm is not None,
            HAS_MASS=slot_mass is not None,
            **tile_options(heads, kv_heads, head_dim),
        )
    return out
