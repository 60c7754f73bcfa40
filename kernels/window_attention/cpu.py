# mypy: disable-error-code="no-untyped-def"
"""window_attention in numba: a task is one cache, that is one sequence, layer and KV head.

Its keys are turned over first, so that the loops run along the tokens: products without horizontal
sums, four rows (queries or heads) sharing the loads of the keys. Only a few rows of logits exist at
a time. Loops end at whole LANES, for what is left over runs one by one. `_exp2` is a copy of that
of paged_decode: numba's cache is keyed by one file, so it cannot be shared.
"""

from math import e, log2

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor, from_numpy

F = np.float32
ROWS = 4  # computed together
DIMS = 4  # added up together
LANES = 32  # tokens that compiled loops take at a time
HIDDEN = F(-1e30)  # a logit; fastmath assumes that there are no infinities


@njit(fastmath=True, nogil=True, error_model="numpy")
def _exp2(x):
    """2 ** x for x <= 0, relative error 2e-7; branch-free, so that loops around it vectorise."""
    x = max(x, F(-126.0))
    whole = np.int32(x - F(0.5))
    rest = x - F(whole)  # in [-0.5, 0.5]
    power = F(1.5403530e-4)
    power = power * rest + F(1.3333558e-3)
    power = power * rest + F(9.6181291e-3)
    power = power * rest + F(5.5504109e-2)
    power = power * rest + F(2.4022651e-1)
    power = power * rest + F(6.9314718e-1)
    power = power * rest + F(1.0)
    return np.int32(F(power).view(np.int32) + (whole << np.int32(23))).view(np.float32)


@njit(fastmath=True, nogil=True, error_model="numpy")
def _products(asking, columns, logits):
    """logits[:4] = asking[:4] @ columns, four dimensions at a time."""
    tokens = columns.shape[1]
    first, second, third, fourth = logits[0], logits[1], logits[2], logits[3]
    for token in range(tokens):
        first[token] = F(0)
        second[token] = F(0)
        third[token] = F(0)
        fourth[token] = F(0)
    for dim in range(0, columns.shape[0], DIMS):
        a, b, c, d = columns[dim], columns[dim + 1], columns[dim + 2], columns[dim + 3]
        q, r, s, t = asking[0, dim:], asking[1, dim:], asking[2, dim:], asking[3, dim:]
        q0, q1, q2, q3 = q[0], q[1], q[2], q[3]
        r0, r1, r2, r3 = r[0], r[1], r[2], r[3]
        s0, s1, s2, s3 = s[0], s[1], s[2], s[3]
        t0, t1, t2, t3 = t[0], t[1], t[2], t[3]
        for token in range(tokens):
            w, x, y, z = a[token], b[token], c[token], d[token]
            first[token] += q0 * w + q1 * x + q2 * y + q3 * z
            second[token] += r0 * w + r1 * x + r2 * y + r3 * z
            third[token] += s0 * w + s1 * x + s2 * y + s3 * z
            fourth[token] += t0 * w + t1 * x + t2 * y + t3 * z


@njit(fastmath=True, nogil=True, error_model="numpy")
def _weigh(logits):
    """Turns base-2 logits, at least one not HIDDEN, into weights; returns 1 / their sum."""
    # The maximum of whole numbers that order as floats do: that of floats does not vectorise.
    top = np.int32(-0x80000000)
    for token in range(logits.shape[0]):
        bits = F(logits[token]).view(np.int32)
        order = np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
        if order > top:
            top = order
    largest = np.int32(top ^ ((top >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)
    total = F(0)
    for token in range(logits.shape[0]):
        weight = F(0) if logits[token] <= HIDDEN else _exp2(logits[token] - largest)
        logits[token] = weight
        total += weight
    return F(1) / total


@njit(fastmath=True, nogil=True, error_model="numpy")
def _attend_query(logits, seen, strongest):
    """Leaves in logits[0], times the number returned, what a query of a group attends to.

    logits[m] are those of its head m; tokens from `seen` on are hidden.
    """
    row = logits[0]
    logits[:, seen:] = HIDDEN
    if strongest:
        for member in range(1, logits.shape[0]):
            other = logits[member]
            for token in range(row.shape[0]):
                row[token] = max(row[token], other[token])
        return _weigh(row)
    first = _weigh(row)
    for member in range(1, logits.shape[0]):
        other = logits[member]
        ratio = _weigh(other) / first
        for token in range(row.shape[0]):
            row[token] += ratio * other[token]
    return first / F(logits.shape[0])


@njit(fastmath=True, nogil=True, error_model="numpy")
def _add_query(row, share, largest, total):
    """Adds share * row to total, or takes the larger."""
    if largest:
        for token in range(total.shape[0]):
            total[token] = max(total[token], share * row[token])
    else:
        for token in range(total.shape[0]):
            total[token] += share * row[token]


@njit(fastmath=True, nogil=True, error_model="numpy")
def _count_seen(positions, asked_at):
    """How many of the oldest entries are not newer than the query."""
    seen = positions.shape[0]
    while seen and positions[seen - 1] > asked_at:
        seen -= 1
    return seen


@njit(fastmath=True, nogil=True, error_model="numpy")
def _ask(queries, first, last, scale, asking):
    """asking[i * group + m] = query first + i of head m, scaled, of [group, recent, head_dim]."""
    group, _, head_dim = queries.shape
    for query in range(first, last):
        for member in range(group):
            for dim in range(head_dim):
                asking[(query - first) * group + member, dim] = queries[member, query, dim] * scale


@njit(fastmath=True, nogil=True, error_model="numpy")
def _attend_cache(
    queries,  # [group, recent, head_dim]
    asked_at,  # [recent]
    columns,  # [head_dim in whole DIMS, tokens in whole LANES], the keys turned over
    positions,  # [tokens]
    settings,  # scale times log2(e), strongest, largest
    asking,  # [together * group in whole ROWS, head_dim in whole DIMS], scratch; padded with zeros
    logits,  # [together * group in whole ROWS, tokens in whole LANES], scratch
    total,  # [tokens in whole LANES], the result, not yet divided for a mean
):
    group, recent, _ = queries.shape
    scale, strongest, largest = settings
    together = asking.shape[0] // group
    total[:] = F(0)
    for first in range(0, recent, together):
        last = min(first + together, recent)
        if asked_at[first:last].max() < 0:
            continue
        _ask(queries, first, last, scale, asking)
        for row in range(0, (last - first) * group, ROWS):
            _products(asking[row:], columns, logits[row:])
        for query in range(first, last):
            seen = _count_seen(positions, asked_at[query])
            if seen:
                rows = logits[(query - first) * group : (query - first + 1) * group]
                share = _attend_query(rows, seen, strongest)
                _add_query(rows[0], share, largest, total)


@njit(
    "void(float32[:,:,:,:,:], int32[:,:], float32[:,:,:,:,:], int32[:,:,:,:], float32, boolean, "
    "boolean, boolean, int64, float32[:,:,:,::1])",
    parallel=True,
    cache=True,
    fastmath=True,
    error_model="numpy",
    nogil=True,
)
def _attend(
    queries,  # [sequences, layers, heads, recent, head_dim]
    query_positions,  # [sequences, recent]
    keys,  # [sequences, layers, kv_heads, tokens, head_dim]
    positions,  # [sequences, layers, kv_heads, tokens]
    scale,  # times log2(e)
    strongest,
    largest,
    mean,
    workers,  # an argument, since a function that asks numba for it cannot be cached
    out,  # [sequences, layers, kv_heads, tokens]
):
    sequences, layers, kv_heads, tokens, head_dim = keys.shape
    group = queries.shape[2] // kv_heads
    together = max(1, ROWS // group)  # queries
    rows = -(-together * group // ROWS) * ROWS
    width = -(-tokens // LANES) * LANES
    settings = (scale, strongest, largest)
    for worker in prange(workers):
        columns = np.zeros((-(-head_dim // DIMS) * DIMS, width), np.float32)
        asking = np.zeros((rows, columns.shape[0]), np.float32)
        logits = np.empty((rows, width), np.float32)
        total = np.empty(width, np.float32)
        for task in range(worker, sequences * layers * kv_heads, workers):
            sequence = task // (layers * kv_heads)
            layer, head = task // kv_heads % layers, task % kv_heads
            asked_at = query_positions[sequence]
            for dim in range(head_dim):
                for token in range(tokens):
                    columns[dim, token] = keys[sequence, layer, head, token, dim]
            _attend_cache(
                queries[sequence, layer, head * group : (head + 1) * group],
                asked_at,
                columns,
                positions[sequence, layer, head],
                settings,
                asking,
                logits,
                total,
            )
            present = max((asked_at >= 0).sum(), 1) if mean else 1
            for token in range(tokens):
                out[sequence, layer, head, token] = total[token] / F(present)


def window_attention(
    queries: Tensor,
    query_positions: Tensor,
    keys: Tensor,
    positions: Tensor,
    scale: float,
    over_queries: str,
    over_heads: str,
) -> Tensor:
    """See `kernels.window_attention.window_attention`; float32 on the CPU."""
    out = np.empty(keys.shape[:4], np.float32)
    _attend(
        queries.numpy(),
        query_positions.numpy(),
        keys.numpy(),
        positions.numpy(),
        scale * log2(e),
        over_heads == "strongest",
        over_queries == "max",
        over_queries == "mean",
        get_num_threads(),
        out,
    )
    return from_numpy(out)
