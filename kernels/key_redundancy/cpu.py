# mypy: disable-error-code="no-untyped-def"
"""key_redundancy in numba: a task is one cache.

Unit keys are turned over first, so that the loops run along the tokens: products without horizontal
sums, four rows sharing the loads. Four rows of cosines exist at a time. Loops start and end at
whole LANES, for what is left over runs one by one.
"""

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor, from_numpy

F = np.float32
ROWS = 4  # of cosines, computed together
DIMS = 4  # added up together
LANES = 32  # tokens that compiled loops take at a time
SHORTEST = F(1e-12)  # as in torch's normalize


@njit(fastmath=True, nogil=True, error_model="numpy")
def _turn(keys, columns):
    """columns[:, t] = the unit vector of keys[t]."""
    tokens, head_dim = keys.shape
    for token in range(tokens):
        total = F(0)
        for dim in range(head_dim):
            total += keys[token, dim] * keys[token, dim]
        share = F(1) / max(np.sqrt(total), SHORTEST)
        for dim in range(head_dim):
            columns[dim, token] = keys[token, dim] * share


@njit(fastmath=True, nogil=True, error_model="numpy")
def _cosines(columns, row, start, last, cosines):
    """cosines[i, t] = that of row + i and t, for t from start on; rows past the last repeat it."""
    width = columns.shape[1]
    first, second = cosines[0, start:width], cosines[1, start:width]
    third, fourth = cosines[2, start:width], cosines[3, start:width]
    for token in range(width - start):
        first[token] = F(0)
        second[token] = F(0)
        third[token] = F(0)
        fourth[token] = F(0)
    i, j, k, m = row, min(row + 1, last), min(row + 2, last), min(row + 3, last)
    for dim in range(0, columns.shape[0], DIMS):
        q, r, s, t = columns[dim], columns[dim + 1], columns[dim + 2], columns[dim + 3]
        a, b, c, d = q[start:], r[start:], s[start:], t[start:]
        q0, q1, q2, q3 = q[i], r[i], s[i], t[i]
        r0, r1, r2, r3 = q[j], r[j], s[j], t[j]
        s0, s1, s2, s3 = q[k], r[k], s[k], t[k]
        t0, t1, t2, t3 = q[m], r[m], s[m], t[m]
        for token in range(width - start):
            w, x, y, z = a[token], b[token], c[token], d[token]
            first[token] += q0 * w + q1 * x + q2 * y + q3 * z
            second[token] += r0 * w + r1 * x + r2 * y + r3 * z
            third[token] += s0 * w + s1 * x + s2 * y + s3 * z
            fourth[token] += t0 * w + t1 * x + t2 * y + t3 * z


@njit(fastmath=True, nogil=True, error_model="numpy")
def _largest(cosines):
    """Largest of `cosines` and 0."""
    top = np.int32(0)  # bits of floats from 0 on order as they do; a maximum of floats is slower
    for token in range(cosines.shape[0]):
        bits = F(cosines[token]).view(np.int32)
        if bits > top:
            top = bits
    return np.int32(top).view(np.float32)


@njit(fastmath=True, nogil=True, error_model="numpy")
def _nearest_newer(columns, tokens, cosines, out):
    """out[t] = largest cosine of t to a newer one."""
    for first in range(0, tokens, ROWS):
        start = first - first % LANES
        _cosines(columns, first, start, tokens - 1, cosines)
        for row in range(first, min(first + ROWS, tokens)):
            own = cosines[row - first]
            own[start : row + 1] = F(0)
            out[row] = min(_largest(own[start:]), F(1))


@njit(fastmath=True, nogil=True, error_model="numpy")
def _mean_cosine(columns, tokens, excused_above, cosines, total, out):
    """out[t] = mean cosine of t, the newest of near-duplicates excused; `total` is scratch."""
    total[:] = F(0)
    for first in range(0, tokens, ROWS):
        _cosines(columns, first, 0, tokens - 1, cosines)
        for row in range(first, min(first + ROWS, tokens)):
            own = cosines[row - first]
            own[row] = F(0)
            newest = np.int32(-1)
            for token in range(own.shape[0]):
                if own[token] > excused_above:
                    newest = np.int32(token)
            if newest >= 0:
                own[newest] = F(0)
            for token in range(own.shape[0]):
                total[token] += own[token]
    for token in range(tokens):
        out[token] = total[token] / F(tokens)


@njit(
    "void(float32[:,:,:], boolean, float32, int64, float32[:,::1])",
    parallel=True,
    cache=True,
    fastmath=True,
    error_model="numpy",
    nogil=True,
)
def _redundancy(
    keys,  # [caches, tokens, head_dim]
    mean,
    excused_above,
    workers,  # an argument, since a function that asks numba for it cannot be cached
    out,  # [caches, tokens]
):
    caches, tokens, head_dim = keys.shape
    width = -(-tokens // LANES) * LANES
    for worker in prange(workers):
        columns = np.zeros((-(-head_dim // DIMS) * DIMS, width), np.float32)
        cosines = np.empty((ROWS, width), np.float32)
        total = np.empty(width, np.float32)
        for cache in range(worker, caches, workers):
            _turn(keys[cache], columns)
            if mean:
                _mean_cosine(columns, tokens, excused_above, cosines, total, out[cache])
            else:
                _nearest_newer(columns, tokens, cosines, out[cache])


def key_redundancy(keys: Tensor, excused_above: float | None) -> Tensor:
    """See `kernels.key_redundancy.key_redundancy`; float32 on the CPU."""
    out = np.empty(keys.shape[:2], np.float32)
    mean = excused_above is not None
    _redundancy(keys.numpy(), mean, excused_above or 0.0, get_num_threads(), out)
    return from_numpy(out)
