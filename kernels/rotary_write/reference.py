"""What rotary_write means, in torch."""

import torch
from torch import Tensor

from kernels.rms_norm.reference import rms_norm
from kernels.write_kv.reference import write_kv


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[tokens, heads, head_dim] with the first rotary_dim numbers of every head rotated."""
    rotary_dim = cos.shape[1]
    turning, rest = heads[..., :rotary_dim], heads[..., rotary_dim:]
    left, right = turning.chunk(2, dim=-1)
    turned = turning * cos[:, None] + torch.cat((-right, left), dim=-1) * sin[:, None]
    return torch.cat((turned.to(heads.dtype), rest), dim=-1)


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
    """See `kernels.rotary_write.rotary_write`; also raises ValueError for a slot outside the
    pool.
    """
    _, kv_heads, _, head_dim = keys.shape
    split = qkv.unflatten(1, (heads + 2 * kv_heads, head_dim))
    query, key, value = split.split((heads, kv_heads, kv_heads), dim=1)
    if query_norm is not None:
        query = rms_norm(query, query_norm, eps, None)
    if key_norm is not None:
        key = rms_norm(key, key_norm, eps, None)
    key = rotate(key, cos, sin)
    write_kv(key, value, positions, slots, keys, values, slot_positions, slot_mass, None, None)
    return rotate(query, cos, sin)
