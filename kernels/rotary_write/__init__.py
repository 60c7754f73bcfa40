"""From a layer's merged projection to rotated queries and a written cache, in one pass."""

import torch
from torch import Tensor

from kernels.checks import LAYER_POOL, check_adjacent, check_pool, check_slots, check_vector
from kernels.impl import Impl, implementation


def rotary_write(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    *,
    heads: int,
    query_norm: Tensor | None = None,
    key_norm: Tensor | None = None,
    eps: float = 1e-6,
    slot_mass: Tensor | None = None,
    impl: Impl | str | None = None,
) -> Tensor:
    """Rotates queries and keys by their positions, stores keys and values as `write_kv` does, and
    returns the queries.

    The rotation is apply_rotary_pos_emb of transformers: x * cos + rotate_half(x) * sin. Products
    and sum are rounded to the dtype each, or, if cos and sin are float32, the sum alone.
    Source: Su et al., RoFormer (2021).

    Args:
        qkv: [tokens, (heads + 2 * kv_heads) * head_dim], last stride 1: a row holds all query
            heads, then the key heads, then the value heads.
        cos, sin: [tokens, rotary_dim], the pool's dtype or float32, last stride 1; rotary_dim even,
            2 to head_dim. Numbers from rotary_dim on are not rotated.
        positions, slots, keys, values, slot_positions, slot_mass: as in `kernels.write_kv`; a
            negative slot skips the write, not the rotation.
        heads: query heads, a multiple of kv_heads.
        query_norm, key_norm: [head_dim], the weights of an `rms_norm` of every query or key head
            before the rotation (Qwen3); None: no norm.
        eps: added to the mean of squares in these norms.
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [tokens, heads, head_dim], contiguous.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, layout or device does not fit, or `impl` cannot take these tensors.
    """
    _check(qkv, cos, sin, keys, values, heads, query_norm, key_norm)
    _check_places(qkv.shape[0], positions, slots, keys, slot_positions, slot_mass)
    write = implementation("rotary_write", impl, keys)
    pool = (positions, slots, keys, values, slot_positions)
    result: Tensor = write(qkv, cos, sin, *pool, heads, query_norm, key_norm, eps, slot_mass)
    return result


def _check(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
) -> None:
    """Raises unless what is rotated, and by what, fits the pool."""
    check_pool(keys, values, LAYER_POOL)
    _, kv_heads, _, head_dim = keys.shape
    if heads < 1 or heads % kv_heads:
        raise ValueError(f"heads is {heads}; expected a positive multiple of {kv_heads} KV heads")
    dtype, tokens = keys.dtype, qkv.shape[0] if qkv.ndim else 0
    check_adjacent("qkv", qkv, (tokens, (heads + 2 * kv_heads) * head_dim), dtype, keys)
    angle, rotary_dim = cos.dtype, cos.shape[-1] if cos.ndim else 0
    if angle is not dtype and angle is not torch.float32:
        raise TypeError(f"cos is {angle}; allowed: float32 or {dtype}, that of keys")
    if rotary_dim % 2 or not 2 <= rotary_dim <= head_dim:
        raise ValueError(
            f"cos has shape {tuple(cos.shape)}; expected [tokens, rotary_dim], even, 2 to "
            f"{head_dim}"
        )
    check_adjacent("cos", cos, (tokens, rotary_dim), angle, keys)
    check_adjacent("sin", sin, (tokens, rotary_dim), angle, keys)
    if query_norm is not None:
        check_adjacent("query_norm", query_norm, (head_dim,), dtype, keys)
    if key_norm is not None:
        check_adjacent("key_norm", key_norm, (head_dim,), dtype, keys)


def _check_places(
    tokens: int,
    positions: Tensor,
    slots: Tensor,
    keys: Tensor,
    slot_positions: Tensor,
    slot_mass: Tensor | None,
) -> None:
    """Raises unless there is a place for every token, and what is kept per slot fits the pool."""
    check_vector("positions", positions, tokens, torch.int32, keys)
    check_vector("slots", slots, tokens, torch.int64, keys)
    check_slots("slot_positions", slot_positions, keys, torch.int32)
    if slot_mass is not None:
        check_slots("slot_mass", slot_mass, keys, torch.float32)
