# mypy: disable-error-code="no-untyped-def"
"""paged_decode in numba, and `attend_rows`, the loop that paged_prefill on the CPU shares with it.

A task is one query row and one KV head; tasks are dealt out to the threads in turn, so that rows of
growing length (a prefill chunk) load them evenly. Within a task every slot's logit is computed
first, then the softmax, then the weighted sum: no rescaling, and a result that depends on nothing
but the row.

The compiled code is cached beside this file (or under NUMBA_CACHE_DIR), keyed by this file alone,
which is why all of it lives here. `NUMBA_NUM_THREADS` at start-up is the most threads numba can
ever use; the engine picks the number with `kernels.impl.set_cpu_threads`.
"""

from math import e, log2

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor, from_numpy

F = np.float32
HIDDEN = F(-1e30)  # a logit; fastmath assumes that there are no infinities
FLOOR = F(-1e29)  # the least maximum: a row with only hidden slots gets weights of 0, not 1
NO_SLOTS = np.zeros((0, 0, 0), np.int32)
NO_ROWS = np.zeros(0, np.int32)


@njit(fastmath=True, nogil=True)
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


@njit(fastmath=True, nogil=True)
def _score(query, tile, slots, logits):
    """logits[:slots] = tile[:slots] @ query; four slots at a time share the loads of the query."""
    head_dim = query.shape[0]
    fours = slots - slots % 4
    for slot in range(0, fours, 4):
        a, b, c, d = F(0), F(0), F(0), F(0)
        for dim in range(head_dim):
            x = query[dim]
            a += x * tile[slot, dim]
            b += x * tile[slot + 1, dim]
            c += x * tile[slot + 2, dim]
            d += x * tile[slot + 3, dim]
        logits[slot] = a
        logits[slot + 1] = b
        logits[slot + 2] = c
        logits[slot + 3] = d
    for slot in range(fours, slots):
        a = F(0)
        for dim in range(head_dim):
            a += query[dim] * tile[slot, dim]
        logits[slot] = a


@njit(fastmath=True, nogil=True)
def _accumulate(weights, tile, slots, total):
    """total += weights[:slots] @ tile[:slots]; four slots at a time share the traffic of total."""
    head_dim = total.shape[0]
    fours = slots - slots % 4
    for slot in range(0, fours, 4):
        a, b, c, d = weights[slot], weights[slot + 1], weights[slot + 2], weights[slot + 3]
        for dim in range(head_dim):
            total[dim] += (
                a * tile[slot, dim]
                + b * tile[slot + 1, dim]
                + c * tile[slot + 2, dim]
                + d * tile[slot + 3, dim]
            )
    for slot in range(fours, slots):
        a = weights[slot]
        for dim in range(head_dim):
            total[dim] += a * tile[slot, dim]


@njit(fastmath=True, nogil=True)
def _softmax(logits, slots):
    """Turns base-2 logits[:slots] into weights adding up to 1, or all 0 if every slot is hidden."""
    largest = FLOOR
    for slot in range(slots):
        largest = max(largest, logits[slot])
    total = F(0)
    for slot in range(slots):
        weight = F(0) if logits[slot] <= HIDDEN else _exp2(logits[slot] - largest)
        logits[slot] = weight
        total += weight
    share = F(1) / total if total > F(0) else F(0)
    for slot in range(slots):
        logits[slot] *= share


@njit(fastmath=True, nogil=True)
def _hide(logits, positions, slots, oldest):
    for slot in range(slots):
        if positions[slot] < oldest:
            logits[slot] = HIDDEN


@njit(fastmath=True, nogil=True)
def _attend_head(
    scaled,  # [group, head_dim], the queries of one KV head, times scale
    keys,
    values,
    table,  # [max_blocks]
    head,
    first,  # the first slot looked at, where a block starts
    last,  # the slots seen end here
    oldest,  # the position from which slots count
    slot_positions,  # empty: all count
    logits,  # [group, at least last - first + block_size], scratch
    total,  # [group, head_dim], the result
):
    group, block_size = scaled.shape[0], keys.shape[2]
    for start in range(first, last, block_size):
        block = table[start // block_size]
        slots = min(block_size, last - start)
        for member in range(group):
            part = logits[member, start - first :]
            _score(scaled[member], keys[block, head], slots, part)
            if slot_positions.size:
                _hide(part, slot_positions[block, head], slots, oldest)
    for member in range(group):
        _softmax(logits[member], last - first)
        total[member] = F(0)
    for start in range(first, last, block_size):
        block = table[start // block_size]
        slots = min(block_size, last - start)
        for member in range(group):
            part = logits[member, start - first :]
            _accumulate(part, values[block, head], slots, total[member])


@njit(
    "void(float32[:,:,:], float32[:,:,:,::1], float32[:,:,:,::1], int32[:,:], int32[:], int32[:], "
    "float32, int32, int32[:,:,::1], int32[:], int64, float32[:,:,::1])",
    parallel=True,
    cache=True,
    fastmath=True,
    nogil=True,
)
def _attend(
    query,  # [rows, heads, head_dim]
    keys,  # [blocks, kv_heads, block_size, head_dim]
    values,
    block_tables,  # [sequences, max_blocks]
    row_tables,  # [rows], which table row each query row reads
    visible,  # [rows], how many slots it sees
    scale,  # times log2(e)
    window,  # 0: none
    slot_positions,  # [blocks, kv_heads, block_size], empty without a window
    query_positions,  # [rows], empty without a window
    workers,  # an argument, since a function that asks numba for it cannot be cached
    out,  # [rows, heads, head_dim]
):
    rows, heads, head_dim = query.shape
    kv_heads, block_size = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    longest = 0
    for row in range(rows):
        longest = max(longest, visible[row])
    for worker in prange(workers):
        logits = np.empty((group, longest + block_size), np.float32)
        scaled = np.empty((group, head_dim), np.float32)
        total = np.empty((group, head_dim), np.float32)
        for task in range(worker, rows * kv_heads, workers):
            row, head = task // kv_heads, task % kv_heads
            first, oldest = 0, 0
            if window:
                first = max(0, visible[row] - window) // block_size * block_size
                oldest = query_positions[row] - window + 1
            for member in range(group):
                for dim in range(head_dim):
                    scaled[member, dim] = query[row, head * group + member, dim] * scale
            table = block_tables[row_tables[row]]
            span = (first, visible[row], oldest)
            _attend_head(scaled, keys, values, table, head, *span, slot_positions, logits, total)
            for member in range(group):
                for dim in range(head_dim):
                    out[row, head * group + member, dim] = total[member, dim]


def attend_rows(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    row_tables: np.ndarray,
    visible: np.ndarray,
    scale: float,
    window: int | None,
    slot_positions: Tensor | None,
    query_positions: Tensor | None,
) -> Tensor:
    """Attention of query row r over the first visible[r] slots of table row row_tables[r].

    Both are int32 [rows]; the tensors and the rest are those of `paged_decode`.
    """
    out = np.empty(query.shape, np.float32)
    _attend(
        query.numpy(),
        keys.numpy(),
        values.numpy(),
        block_tables.numpy(),
        row_tables,
        visible,
        scale * log2(e),
        0 if window is None else window,
        NO_SLOTS if window is None or slot_positions is None else slot_positions.numpy(),
        NO_ROWS if window is None or query_positions is None else query_positions.numpy(),
        get_num_threads(),
        out,
    )
    return from_numpy(out)


def paged_decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    scale: float,
    window: int | None,
    slot_positions: Tensor | None,
    query_positions: Tensor | None,
) -> Tensor:
    """See `kernels.paged_decode.paged_decode`; float32 on the CPU."""
    rows = np.arange(query.shape[0], dtype=np.int32)
    return attend_rows(
        query,
        keys,
        values,
        block_tables,
        rows,
        lengths.numpy(),
        scale,
        window,
        slot_positions,
        query_positions,
    )
