# mypy: disable-error-code="no-untyped-def"
"""select_entries in numba: a task is one row of scores.

Scores become whole numbers that order alike. The lowest that stays is found bit by bit, counting
the entries at or above it: 32 passes over a row that lies in the nearest cache.
"""

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor, from_numpy

MAGNITUDE = np.int32(0x7FFFFFFF)
LARGEST = np.int32(0x7F7FFFFF)  # the bits of the largest float32
STAYS = np.int32(0x7FFFFFFF)  # above all scores
LOWEST = np.int32(~LARGEST)


@njit(nogil=True)
def _order(bits, pinned, recent, order):
    """order[t] sorts as the float32 whose bits those are; STAYS for pinned and recent entries."""
    for token in range(bits.shape[0]):
        number = np.int32(bits[token])
        magnitude = np.int32(number & MAGNITUDE)
        limited = min(magnitude, LARGEST)
        value = np.int32(limited if number >= 0 else ~limited)
        value = np.int32(0) if magnitude == 0 else value  # -0
        order[token] = LOWEST if magnitude > np.int32(0x7F800000) else value  # NaN
    order[: min(pinned, bits.shape[0])] = STAYS
    order[max(0, bits.shape[0] - recent) :] = STAYS


@njit(nogil=True)
def _count_from(order, least):
    count = np.int32(0)
    for token in range(order.shape[0]):
        count += np.int32(order[token] >= least)
    return count


@njit(nogil=True)
def _select(order, count, out):
    """out = slots of the `count` highest, ascending; of equals the newer."""
    least = np.int64(-(2**31))  # the highest number that `count` entries reach
    for bit in range(31, -1, -1):
        higher = least + (np.int64(1) << bit)
        if higher <= STAYS and _count_from(order, np.int32(higher)) >= count:
            least = higher
    equals = count - (_count_from(order, np.int32(least + 1)) if least < STAYS else 0)
    place = count
    for token in range(order.shape[0] - 1, -1, -1):
        equal = order[token] == least
        if order[token] > least or (equal and equals > 0):
            equals -= equal
            place -= 1
            out[place] = token


@njit(
    "void(int32[:,:,:,:], int64, int64[:], int64[:], int64, int64[:,:,:,::1])",
    parallel=True,
    cache=True,
    nogil=True,
)
def _select_all(
    bits,  # [sequences, layers, kv_heads, tokens]
    count,  # at least 1
    pinned,  # [sequences]
    recent,
    workers,  # an argument, since a function that asks numba for it cannot be cached
    out,  # [sequences, layers, kv_heads, count]
):
    sequences, layers, kv_heads, tokens = bits.shape
    for worker in prange(workers):
        order = np.empty(tokens, np.int32)
        for task in range(worker, sequences * layers * kv_heads, workers):
            sequence = task // (layers * kv_heads)
            layer, head = task // kv_heads % layers, task % kv_heads
            _order(bits[sequence, layer, head], pinned[sequence], recent[sequence], order)
            _select(order, count, out[sequence, layer, head])


def select_entries(scores: Tensor, count: int, pinned: Tensor, recent: Tensor) -> Tensor:
    """See `kernels.select_entries.select_entries`; on the CPU."""
    out = np.empty((*scores.shape[:3], count), np.int64)
    if count:
        bits = scores.numpy().view(np.int32)
        _select_all(bits, count, pinned.numpy(), recent.numpy(), get_num_threads(), out)
    return from_numpy(out)
