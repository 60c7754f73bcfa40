# mypy: disable-error-code="no-untyped-def"
"""paged_decode in numba, and `attend_rows`, the loop that paged_prefill on the CPU shares with it.

A task is one query row and one KV head; tasks are dealt out to the threads in turn, so that rows of
growing length (a prefill chunk) load them evenly. Within a task every slot's logit is computed
first, then the softmax, then the weighted sum: no rescaling, and a result that depends on nothing
but the row. Slots are taken in tiles of up to 16, see `kernels.tiles`.

The compiled code is cached beside this file (or under NUMBA_CACHE_DIR), keyed by this file alone.
Tensors come as addresses, since `Tensor.numpy()` costs more than a small batch does.
`NUMBA_NUM_THREADS` at start-up is the most threads numba can ever use; the engine picks the number
with `kernels.impl.set_cpu_threads`.
"""

from math import e, log2
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor

from kernels.addresses import floats, int32s
from kernels.tiles import LANES, accumulate, fetch, score, tile_at

F = np.float32
HIDDEN = F(-1e30)  # a logit; fastmath assumes that there are no infinities
FLOOR = F(-1e29)  # the least maximum: a row with only hidden slots gets weights of 0, not 1
WHOLE = 32  # logits that the compiled softmax takes at a time; what is left over runs one by one
WORTH_THREADS = 1 << 19  # numbers; for fewer, waking a second thread costs more than it saves


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


@njit(fastmath=True, nogil=True, error_model="numpy")
def _softmax(logits):
    """Turns base-2 logits into weights; returns 1 / their sum, or 0 if every slot is hidden."""
    # The maximum of whole numbers that order as floats do: that of floats does not vectorise.
    top = np.int32(-0x80000000)
    for slot in range(logits.shape[0]):
        bits = F(logits[slot]).view(np.int32)
        top = max(top, np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    largest = np.int32(top ^ ((top >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)
    largest = max(largest, FLOOR)
    total = F(0)
    for slot in range(logits.shape[0]):
        weight = F(0) if logits[slot] <= HIDDEN else _exp2(logits[slot] - largest)
        logits[slot] = weight
        total += weight
    return F(1) / total if total > F(0) else F(0)


@njit(fastmath=True, nogil=True)
def _hide(logits, positions, slots, oldest):
    """Hides the slots of a tile whose positions come before `oldest`; both are addresses."""
    row, held = floats(logits, slots), int32s(positions, slots)
    for slot in range(slots):
        if held[slot] < oldest:
            row[slot] = HIDDEN


@njit(nogil=True, error_model="numpy")
def _block(table, start, last, head, sizes, numbers):
    """Which slot of the pool is slot `start` of the row; fetches the head's next block of `numbers`
    meanwhile, for blocks lie anywhere and a processor cannot guess where.
    """
    kv_heads, block_size, head_dim, item = sizes
    blocks, index = int32s(table, -(-last // block_size)), start // block_size
    if start + block_size < last:
        size = item * block_size * head_dim
        fetch(numbers + (np.int64(blocks[index + 1]) * kv_heads + head) * size, size)
    return (np.int64(blocks[index]) * kv_heads + head) * block_size


@njit(nogil=True)
def _attend_head(
    pool,  # addresses of keys, values and slot positions (0: all slots count)
    table,  # address of the row's blocks
    head,
    span,  # first slot looked at, where a block starts; end of the slots seen; oldest that counts
    sizes,  # kv_heads, block_size, head_dim, bytes of a number in the pool
    scaled,  # [group, width], the queries of one KV head, times scale
    logits,  # [group, at least the slots looked at + WHOLE + LANES], scratch
    total,  # [group, width], the result
    shares,  # [group], what it is yet to be multiplied by
    scratch,  # [LANES, width], zeros past head_dim
):
    keys, values, slot_positions = pool
    first, last, oldest = span
    block_size, head_dim, item = sizes[1:]
    group, width = scaled.shape
    stride, spare = 4 * logits.shape[1], scratch.ctypes.data
    queries, weights, sums = scaled.ctypes.data, logits.ctypes.data, total.ctypes.data
    for start in range(first, last, block_size):
        block = _block(table, start, last, head, sizes, keys)
        for offset in range(0, min(block_size, last - start), LANES):
            slots = min(LANES, block_size - offset, last - start - offset)
            place = keys + item * (block + offset) * head_dim
            tile = tile_at(place, item, slots, head_dim, width, spare)
            for member in range(group):
                own = weights + member * stride + 4 * (start + offset - first)
                score(queries + 4 * member * width, tile, slots, width, own)
                if slot_positions:
                    _hide(own, slot_positions + 4 * (block + offset), slots, oldest)
    whole = -(-(last - first) // WHOLE) * WHOLE
    for member in range(group):
        logits[member, last - first : whole] = HIDDEN
        shares[member] = _softmax(logits[member, :whole])
    total[:] = F(0)
    for start in range(first, last, block_size):
        block = _block(table, start, last, head, sizes, values)
        for offset in range(0, min(block_size, last - start), LANES):
            slots = min(LANES, block_size - offset, last - start - offset)
            place = values + item * (block + offset) * head_dim
            tile = tile_at(place, item, slots, head_dim, width, spare)
            own = weights + 4 * (start + offset - first)
            accumulate(own, stride, tile, slots, width, group, sums)


@njit(nogil=True, error_model="numpy")
def _attend_tasks(worker, workers, query, pool, scales, tables, window, scale, out, sizes):
    """Every `workers`-th task from `worker` on; the arguments are those of `_attend`."""
    address, row_stride, head_stride, dim_stride = query
    block_tables, table_stride, row_tables, visible, query_positions = tables
    rows, heads, kv_heads, block_size, head_dim, item = sizes
    key_scales, value_scales = scales
    group, width = heads // kv_heads, -(-head_dim // LANES) * LANES
    seen = int32s(visible, rows)
    longest = 0
    for row in range(rows):
        longest = max(longest, seen[row])
    logits = np.empty((group, (longest // WHOLE + 2) * WHOLE + LANES), np.float32)
    scaled = np.zeros((group, width), np.float32)
    total = np.empty((group, width), np.float32)
    shares = np.empty(group, np.float32)
    scratch = np.zeros((LANES, width), np.float32)
    for task in range(worker, rows * kv_heads, workers):
        row, head = task // kv_heads, task % kv_heads
        first, oldest = 0, 0
        if window:
            first = max(0, seen[row] - window) // block_size * block_size
            oldest = int32s(query_positions, rows)[row] - window + 1
        of_keys, of_values = scale, F(1)
        if key_scales:
            of_keys = scale * floats(key_scales, kv_heads)[head]
            of_values = floats(value_scales, kv_heads)[head]
        for member in range(group):
            start = row * row_stride + (head * group + member) * head_stride
            source = floats(address + 4 * start, (head_dim - 1) * dim_stride + 1)
            for dim in range(head_dim):
                scaled[member, dim] = source[dim * dim_stride] * of_keys
        index = int32s(row_tables, rows)[row] if row_tables else row
        table = block_tables + 4 * index * table_stride
        span = (first, np.int64(seen[row]), oldest)
        own = (kv_heads, block_size, head_dim, item)
        _attend_head(pool, table, head, span, own, scaled, logits, total, shares, scratch)
        for member in range(group):
            place = out + 4 * (row * heads + head * group + member) * head_dim
            result, share = floats(place, head_dim), shares[member] * of_values
            for dim in range(head_dim):
                result[dim] = total[member, dim] * share


SIGNATURE = (
    "void(UniTuple(int64, 4), UniTuple(int64, 3), UniTuple(int64, 2), UniTuple(int64, 5), int64, "
    "float32, int64, UniTuple(int64, 6))"
)


@njit(SIGNATURE, cache=True, nogil=True)
def _attend(
    query,  # address and strides of [rows, heads, head_dim]
    pool,  # addresses of keys, values and slot positions (0 without a window)
    scales,  # addresses of key_scales and value_scales, 0 where the pool holds floats
    tables,  # address of the block tables, stride of their rows, addresses of which table row each
    # query row reads (0: its own), of how many slots it sees, and of its position
    window,  # 0: none
    scale,  # times log2(e)
    out,  # address of [rows, heads, head_dim]
    sizes,  # rows, heads, kv_heads, block_size, head_dim, bytes of a number in the pool
):
    _attend_tasks(0, 1, query, pool, scales, tables, window, scale, out, sizes)


@njit(SIGNATURE[:-1] + ", int64)", parallel=True, cache=True, nogil=True)
def _attend_shared(query, pool, scales, tables, window, scale, out, sizes, workers):
    for worker in prange(workers):
        _attend_tasks(worker, workers, query, pool, scales, tables, window, scale, out, sizes)


def attend_rows(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    row_tables: Tensor | None,
    visible: Tensor,
    scale: float,
    window: int | None,
    slot_positions: Tensor | None,
    query_positions: Tensor | None,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """Attention of query row r over the first visible[r] slots of table row row_tables[r], or r.

    Both are int32 [rows]; the tensors and the rest are those of `paged_decode`.
    """
    rows, heads, head_dim = query.shape
    _, kv_heads, block_size, _ = keys.shape
    out = query.new_empty((rows, heads, head_dim))
    if window is None:
        slot_positions, query_positions = None, None
    # this list keeps alive what contiguous() may have copied
    rows_of = [row_tables, visible, query_positions, slot_positions, key_scales, value_scales]
    rows_of = [None if tensor is None else tensor.contiguous() for tensor in rows_of]
    reads, seen, positions, slots, *scales = [0 if t is None else t.data_ptr() for t in rows_of]
    arguments = (
        (query.data_ptr(), *query.stride()),
        (keys.data_ptr(), values.data_ptr(), slots),
        tuple(scales),
        (block_tables.data_ptr(), block_tables.stride(0), reads, seen, positions),
        window or 0,
        scale * log2(e),
        out.data_ptr(),
        (rows, heads, kv_heads, block_size, head_dim, keys.element_size()),
    )
    shared = out.numel() * block_tables.shape[1] * block_size >= WORTH_THREADS
    workers = get_num_threads() if shared else 1
    if workers > 1:
        _attend_shared(*arguments, workers)
    else:
        _attend(*arguments)
    return out


def paged_decode(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    *rest: Any,
) -> Tensor:
    """See `kernels.paged_decode.paged_decode`; float32 on the CPU, its pool float32 or fp8."""
    return attend_rows(query, keys, values, block_tables, None, lengths, *rest)
