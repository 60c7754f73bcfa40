# mypy: disable-error-code="no-untyped-def"
"""trigonometric_score in numba: a task is one sequence, layer and KV head.

Its keys are turned over first, and the lengths of their numbers put below them, so that every loop
runs along the tokens.
"""

from math import cos, sin, sqrt

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor, from_numpy

F = np.float32


@njit(nogil=True, error_model="numpy")
def _turn(frequency, position, offsets):
    """Mean of exp(i frequency (position + offset)), as two float64."""
    real, imaginary = 0.0, 0.0
    for offset in offsets:
        angle = frequency * (position + offset)
        real += cos(angle)
        imaginary += sin(angle)
    return real / len(offsets), imaginary / len(offsets)


@njit(fastmath=True, nogil=True, error_model="numpy")
def _weigh(mean, length, turns, weights):
    """weights[m] = head m's mean query turned, and by how much its lengths exceed the mean's."""
    group, head_dim = mean.shape
    half = head_dim // 2
    for member in range(group):
        for number in range(half):
            real, imaginary = mean[member, number], mean[member, number + half]
            a, b = turns[number, 0], turns[number, 1]
            weights[member, number] = F(real * a - imaginary * b)
            weights[member, number + half] = F(real * b + imaginary * a)
            own = sqrt(real * real + imaginary * imaginary)
            weights[member, number + head_dim] = length[member, number] - F(own)


@njit(fastmath=True, nogil=True, error_model="numpy")
def _score(keys, weights, columns, out):
    """out[m, t] = weights[m] · (keys[t], the lengths of its numbers), columns being scratch."""
    tokens, head_dim = keys.shape
    half = head_dim // 2
    for dim in range(head_dim):
        for token in range(tokens):
            columns[dim, token] = keys[token, dim]
    for number in range(half):
        real, imaginary = columns[number], columns[number + half]
        length = columns[number + head_dim]
        for token in range(tokens):
            x, y = real[token], imaginary[token]
            length[token] = np.sqrt(x * x + y * y)
    for member in range(weights.shape[0]):
        row = out[member]
        for token in range(tokens):
            row[token] = F(0)
        for number in range(half):  # three rows share the traffic of the result
            w = weights[member]
            p, q, r = w[number], w[number + half], w[number + head_dim]
            real, imaginary = columns[number], columns[number + half]
            length = columns[number + head_dim]
            for token in range(tokens):
                row[token] += p * real[token] + q * imaginary[token] + r * length[token]


@njit(
    "void(float32[:,:,:,:,:], int64[:], float32[:,:,:], float32[:,:,:], float64[:,:], int64[:], "
    "int64, float32[:,:,:,::1])",
    parallel=True,
    cache=True,
    fastmath=True,
    error_model="numpy",
    nogil=True,
)
def _scores(
    keys,  # [sequences, layers, kv_heads, tokens, head_dim]
    next_positions,  # [sequences]
    query_mean,  # [layers, heads, head_dim]
    query_length,  # [layers, heads, head_dim / 2]
    frequencies,  # [layers, head_dim / 2]
    offsets,
    workers,  # an argument, since a function that asks numba for it cannot be cached
    out,  # [sequences, layers, heads, tokens]
):
    sequences, layers, kv_heads, tokens, head_dim = keys.shape
    half, group = head_dim // 2, query_mean.shape[1] // kv_heads
    for worker in prange(workers):
        turns = np.empty((half, 2), np.float64)
        weights = np.empty((group, head_dim + half), np.float32)
        columns = np.empty((head_dim + half, tokens), np.float32)
        for task in range(worker, sequences * layers, workers):
            sequence, layer = task // layers, task % layers
            for number in range(half):
                turns[number] = _turn(frequencies[layer, number], next_positions[sequence], offsets)
            for head in range(kv_heads):
                own = slice(head * group, (head + 1) * group)
                _weigh(query_mean[layer, own], query_length[layer, own], turns, weights)
                _score(keys[sequence, layer, head], weights, columns, out[sequence, layer, own])


def trigonometric_score(
    keys: Tensor,
    next_positions: Tensor,
    query_mean: Tensor,
    query_length: Tensor,
    frequencies: Tensor,
    offsets: tuple[int, ...],
) -> Tensor:
    """See `kernels.trigonometric_score.trigonometric_score`; float32 on the CPU."""
    sequences, layers, _, tokens, _ = keys.shape
    out = np.empty((sequences, layers, query_mean.shape[1], tokens), np.float32)
    _scores(
        keys.numpy(),
        next_positions.long().numpy(),
        query_mean.numpy(),
        query_length.numpy(),
        frequencies.numpy(),
        np.array(offsets),
        get_num_threads(),
        out,
    )
    return from_numpy(out)
