# mypy: disable-error-code="no-untyped-def"
"""rotary_write in numba: a token at a time, in one thread unless there is work for more.

Both variants call one function per token, so a result depends on nothing but its token. Tensors
come as addresses; those of optional ones are 0 where there is none.
"""

from math import sqrt

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor

from kernels.addresses import floats, int32s, int64s

F = np.float32
WORTH_THREADS = 1 << 18  # numbers; for fewer, waking a second thread costs more than it saves
FAST = {"reassoc", "contract", "nsz"}  # NaN and infinity pass through as in torch


@njit(fastmath=FAST, nogil=True, error_model="numpy")
def _scale(source, size, eps):
    """What RMSNorm multiplies the `size` numbers at an address by, before its weight."""
    row, total = floats(source, size), F(0)
    for i in range(size):
        total += row[i] * row[i]
    return F(1) / F(sqrt(total / F(size) + eps))


@njit(fastmath=FAST, nogil=True)
def _copy(source, size, target):
    row, out = floats(source, size), floats(target, size)
    for i in range(size):
        out[i] = row[i]


@njit(fastmath=FAST, nogil=True)
def _multiply(source, scale, weight, size, target):
    row, factor, out = floats(source, size), floats(weight, size), floats(target, size)
    for i in range(size):
        out[i] = factor[i] * (row[i] * scale)


@njit(fastmath=FAST, nogil=True)
def _rotate(source, cos, sin, half, target):
    """Rotates the pairs (i, i + half) of the 2 half numbers at an address."""
    right = 4 * half  # bytes from the first to the second of a pair
    x, y = floats(source, half), floats(source + right, half)
    x_cos, y_cos = floats(cos, half), floats(cos + right, half)
    x_sin, y_sin = floats(sin, half), floats(sin + right, half)
    x_out, y_out = floats(target, half), floats(target + right, half)
    for i in range(half):
        a, b = x[i], y[i]
        x_out[i] = a * x_cos[i] - b * x_sin[i]
        y_out[i] = b * y_cos[i] + a * y_sin[i]


@njit(fastmath=FAST, nogil=True)
def _rotate_scaled(source, scale, weight, cos, sin, half, target):
    """`_rotate` of the numbers times `scale` and `weight`, without a pass of its own for that."""
    right = 4 * half
    x, y = floats(source, half), floats(source + right, half)
    x_weight, y_weight = floats(weight, half), floats(weight + right, half)
    x_cos, y_cos = floats(cos, half), floats(cos + right, half)
    x_sin, y_sin = floats(sin, half), floats(sin + right, half)
    x_out, y_out = floats(target, half), floats(target + right, half)
    for i in range(half):
        a, b = x_weight[i] * (x[i] * scale), y_weight[i] * (y[i] * scale)
        x_out[i] = a * x_cos[i] - b * x_sin[i]
        y_out[i] = b * y_cos[i] + a * y_sin[i]


@njit(nogil=True)
def _head(source, norm, eps, cos, sin, head_dim, rotary_dim, target):
    """One head: normalised by the weight at `norm`, if any, then rotated."""
    rotated, rest = 4 * rotary_dim, head_dim - rotary_dim  # bytes, numbers
    if norm:
        scale = _scale(source, head_dim, eps)
        _rotate_scaled(source, scale, norm, cos, sin, rotary_dim // 2, target)
        _multiply(source + rotated, scale, norm + rotated, rest, target + rotated)
    else:
        _rotate(source, cos, sin, rotary_dim // 2, target)
        _copy(source + rotated, rest, target + rotated)


@njit(nogil=True, error_model="numpy")
def _token(token, inputs, pool, norms, eps, out, sizes):
    qkv, qkv_stride, cos, cos_stride, sin, sin_stride, positions, slots = inputs
    keys, values, slot_positions, slot_mass = pool
    query_norm, key_norm = norms
    tokens, heads, kv_heads, head_dim, rotary_dim, block_size = sizes
    size = 4 * head_dim  # of a head in bytes
    row, out = qkv + 4 * token * qkv_stride, out + token * heads * size
    cos, sin = cos + 4 * token * cos_stride, sin + 4 * token * sin_stride
    for head in range(heads):
        target = out + head * size
        _head(row + head * size, query_norm, eps, cos, sin, head_dim, rotary_dim, target)
    slot = int64s(slots, tokens)[token]
    if slot < 0:
        return
    block, offset = slot // block_size, slot % block_size
    for head in range(kv_heads):
        place = (block * kv_heads + head) * block_size + offset
        key = row + (heads + head) * size
        _head(key, key_norm, eps, cos, sin, head_dim, rotary_dim, keys + place * size)
        _copy(key + kv_heads * size, head_dim, values + place * size)
        int32s(slot_positions + 4 * place, 1)[0] = int32s(positions, tokens)[token]
        if slot_mass:
            floats(slot_mass + 4 * place, 1)[0] = F(0)


SIGNATURE = (
    "void(UniTuple(int64, 8), UniTuple(int64, 4), UniTuple(int64, 2), float32, int64, "
    "UniTuple(int64, 6))"
)


@njit(SIGNATURE, cache=True, nogil=True)
def _tokens(inputs, pool, norms, eps, out, sizes):
    for token in range(sizes[0]):
        _token(token, inputs, pool, norms, eps, out, sizes)


@njit(SIGNATURE[:-1] + ", int64)", parallel=True, cache=True, nogil=True)
def _tokens_shared(inputs, pool, norms, eps, out, sizes, workers):
    tokens = sizes[0]
    for worker in prange(workers):
        for token in range(worker * tokens // workers, (worker + 1) * tokens // workers):
            _token(token, inputs, pool, norms, eps, out, sizes)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


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
    """See `kernels.rotary_write.rotary_write`; float32 on the CPU."""
    tokens, rotary_dim = cos.shape
    _, kv_heads, block_size, head_dim = keys.shape
    out = qkv.new_empty((tokens, heads, head_dim))
    angles = (cos.data_ptr(), cos.stride(0), sin.data_ptr(), sin.stride(0))
    rows = (positions.data_ptr(), slots.data_ptr())
    arguments = (
        (qkv.data_ptr(), qkv.stride(0), *angles, *rows),
        (keys.data_ptr(), values.data_ptr(), slot_positions.data_ptr(), _address(slot_mass)),
        (_address(query_norm), _address(key_norm)),
        eps,
        out.data_ptr(),
        (tokens, heads, kv_heads, head_dim, rotary_dim, block_size),
    )
    if qkv.numel() < WORTH_THREADS:
        _tokens(*arguments)
    else:
        _tokens_shared(*arguments, get_num_threads())
    return out
