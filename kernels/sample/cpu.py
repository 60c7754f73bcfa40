# mypy: disable-error-code="no-untyped-def"
"""sample in numba: a task is one row.

Logits are compared as whole numbers that order alike, so minima and maxima vectorise and a
threshold is exact. A threshold is found by halving: each pass adds up the mass above a pivot and
leaves out the entries that the answer cannot depend on any more, so all passes together cost about
as much as a few over the row.

The compiled code is cached beside this file, keyed by this file alone, which is why `_exp2`, which
paged_decode has too, is written out here.
"""

from math import e, log2

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor, from_numpy

F = np.float32
SUMS = {"reassoc", "contract", "nsz"}  # infinities stay infinities
MAGNITUDE = np.int32(0x7FFFFFFF)
INFINITY = 0x7F800000  # the order of +inf; NaN lies beyond it, on either side
LOG2E = log2(e)
LARGEST_RATE = 3e38  # times 0 is 0
TILE = 128  # entries whose mass is added up in float32; tiles are added up in float64
PARALLEL = 1 << 18  # entries in all, from which a second thread saves more than it costs


@njit(fastmath=SUMS, nogil=True)
def _exp2(x):
    """2 ** x for x <= 0, relative error 2e-7, 0 below -126; branch-free, so loops vectorise."""
    limited = max(x, F(-126.0))
    whole = np.int32(limited - F(0.5))
    rest = limited - F(whole)  # in [-0.5, 0.5]
    power = F(1.5403530e-4)
    power = power * rest + F(1.3333558e-3)
    power = power * rest + F(9.6181291e-3)
    power = power * rest + F(5.5504109e-2)
    power = power * rest + F(2.4022651e-1)
    power = power * rest + F(6.9314718e-1)
    power = power * rest + F(1.0)
    scaled = np.int32(F(power).view(np.int32) + (whole << np.int32(23))).view(np.float32)
    return F(0) if x < F(-126.0) else scaled


@njit(nogil=True)
def _order(bits):
    """An int32 that orders as the float32 with these bits does; both zeros are 0."""
    magnitude = np.int32(bits & MAGNITUDE)
    return np.int32(-magnitude) if bits < 0 else magnitude


@njit(nogil=True)
def _number(order):
    """The float32 of that order."""
    magnitude = np.int32(abs(order)).view(np.float32)
    return -magnitude if order < 0 else magnitude


@njit(nogil=True)
def _extent(bits):
    """The largest and the lowest order of a row."""
    highest = lowest = _order(bits[0])
    for entry in range(bits.shape[0]):
        order = _order(bits[entry])
        highest = max(highest, order)
        lowest = min(lowest, order)
    return highest, lowest


@njit(nogil=True)
def _count_equal(bits, order):
    count = np.int32(0)
    for entry in range(bits.shape[0]):
        count += np.int32(_order(bits[entry]) == order)
    return count


@njit(nogil=True)
def _first(bits, order):
    """The first entry of that order, which the row has; tile by tile, as the count vectorises."""
    start = 0
    while _count_equal(bits[start : start + TILE], order) == 0:
        start += TILE
    while _order(bits[start]) != order:
        start += 1
    return start


@njit(fastmath=SUMS, nogil=True)
def _weigh_tile(bits, least, largest, rate, weights):
    total = F(0)
    for entry in range(bits.shape[0]):
        weight = _exp2((np.int32(bits[entry]).view(np.float32) - largest) * rate)
        weight = weight if _order(bits[entry]) >= least else F(0)
        weights[entry] = weight
        total += weight
    return total


@njit(nogil=True)
def _weigh(bits, least, largest, rate, weights):
    """weights = mass of each entry, 1 for the largest, 0 below the order `least`; their sum."""
    total = 0.0
    for start in range(0, bits.shape[0], TILE):
        tile = slice(start, start + TILE)
        total += _weigh_tile(bits[tile], least, largest, rate, weights[tile])
    return total


@njit(fastmath=SUMS, nogil=True)
def _tile_above(orders, masses, pivot):
    total = F(0)
    for entry in range(orders.shape[0]):
        total += masses[entry] if orders[entry] > pivot else F(0)
    return total


@njit(nogil=True)
def _mass_above(orders, masses, count, pivot):
    total = 0.0
    for start in range(0, count, TILE):
        tile = slice(start, min(start + TILE, count))
        total += _tile_above(orders[tile], masses[tile], pivot)
    return total


@njit(nogil=True)
def _halve(orders, masses, count, pivot, above):
    """Moves the entries above the pivot, or the others, to the front; returns their number."""
    left = np.uint64(0)  # a signed index is checked for being negative
    for entry in range(count):
        order = orders[entry]
        orders[left] = order
        masses[left] = masses[entry]
        left += np.uint64((order > pivot) == above)
    return np.int64(left)


@njit(nogil=True)
def _least_kept(orders, masses, count, low, high, limit):
    """The least order in low..high that has less than `limit` of the mass above it; else `high`.

    Only the order of an entry, or one that keeps the same entries, is returned. `orders` and
    `masses`, of the entries in low..high, are scratch.
    """
    carried, passes = 0.0, 0  # mass above `high`
    while low < high and count > 1:
        pivot = (low + high) >> 1
        if passes % 2 == 0:  # numbers lie evenly in value, but only their order bounds the passes
            value = F(0.5) * _number(np.int32(low)) + F(0.5) * _number(np.int32(high))
            pivot = min(max(np.int64(_order(F(value).view(np.int32))), low), high - 1)
        passes += 1
        above = _mass_above(orders, masses, count, np.int32(pivot))
        fits = carried + above < limit
        count = _halve(orders, masses, count, np.int32(pivot), not fits)
        if fits:
            carried += above
            high = pivot
        else:
            low = pivot + 1
    return np.int64(orders[0]) if count == 1 else low


@njit(nogil=True)
def _candidates(bits, weights, least, floor, orders, masses):
    """Copies the entries of at least that order and weight; returns their number."""
    count = np.uint64(0)  # a signed index is checked for being negative
    for entry in range(bits.shape[0]):
        order = _order(bits[entry])
        orders[count] = order
        masses[count] = weights[entry]
        count += np.uint64(order >= least and weights[entry] >= floor)
    return np.int64(count)


@njit(fastmath=SUMS, nogil=True)
def _mask_tile(bits, least, weights):
    """Takes the mass off the entries below the order `least`; returns what is left."""
    total = F(0)
    for entry in range(bits.shape[0]):
        weight = weights[entry] if _order(bits[entry]) >= least else F(0)
        weights[entry] = weight
        total += weight
    return total


@njit(nogil=True)
def _invert(bits, least, weights, number, tiles):
    """The entry at which the mass of those of at least that order, in turn, exceeds its share."""
    vocabulary, total = bits.shape[0], 0.0
    for start in range(0, vocabulary, TILE):
        tile = slice(start, start + TILE)
        part = _mask_tile(bits[tile], least, weights[tile])
        tiles[start // TILE] = part
        total += part
    target, before, index = number * total, 0.0, 0
    while before + tiles[index] <= target and index + 1 < tiles.shape[0]:
        before += tiles[index]
        index += 1
    last = -1  # of the tile that has mass, should rounding leave the target out of reach
    for entry in range(index * TILE, min((index + 1) * TILE, vocabulary)):
        if weights[entry] > 0:
            last = entry
            before += weights[entry]
            if before > target:
                break
    return last


@njit(nogil=True)
def _draw(bits, highest, lowest, settings, weights, tiles, orders, masses):
    temperature, top_k, top_p, min_p, number = settings
    largest, vocabulary = _number(highest), bits.shape[0]
    rate = min(LOG2E / temperature, LARGEST_RATE)
    least, high = np.int64(lowest), np.int64(highest)
    if 0 < top_k < vocabulary:
        weights[:] = F(1)
        count = _candidates(bits, weights, least, F(0), orders, masses)
        least = _least_kept(orders, masses, count, least, high, float(top_k))
    total = _weigh(bits, np.int32(least), largest, F(rate), weights)
    if min_p > 0:
        value = F(largest + np.log2(min_p) / rate)
        least = max(least, min(np.int64(_order(value.view(np.int32))), high))
    if top_p < 1:
        # All entries lighter than this together are half of what top-p leaves out.
        floor = F((1 - top_p) * total / (2 * vocabulary))
        count = _candidates(bits, weights, least, floor, orders, masses)
        least = _least_kept(orders, masses, count, least, high, top_p * total)
    return _invert(bits, np.int32(least), weights, number, tiles)


ROWS = "int32[:,::1], float32[::1], int32[::1], float32[::1], float32[::1], float32[::1]"


@njit(f"void({ROWS}, int64, int64, int64[::1])", cache=True, nogil=True)
def _sample_rows(
    bits,  # [rows, vocabulary], those of the logits
    temperatures,  # [rows]
    top_ks,
    top_ps,
    min_ps,
    numbers,
    first,  # rows first, first + step, ... are drawn
    step,
    tokens,  # [rows]
):
    rows, vocabulary = bits.shape
    weights = np.empty(vocabulary, np.float32)
    tiles = np.empty((vocabulary + TILE - 1) // TILE, np.float32)
    orders = np.empty(vocabulary, np.int32)
    masses = np.empty(vocabulary, np.float32)
    for row in range(first, rows, step):
        highest, lowest = _extent(bits[row])
        if highest >= INFINITY or lowest < -INFINITY or highest == -INFINITY:
            tokens[row] = -1
        elif temperatures[row] == 0:
            tokens[row] = _first(bits[row], highest)
        else:
            shape = float(temperatures[row]), top_ks[row], float(top_ps[row]), float(min_ps[row])
            settings = (*shape, float(numbers[row]))
            scratch = (weights, tiles, orders, masses)
            tokens[row] = _draw(bits[row], highest, lowest, settings, *scratch)


@njit(f"void({ROWS}, int64, int64[::1])", parallel=True, cache=True, nogil=True)
def _sample_threaded(
    bits,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    numbers,
    workers,  # an argument, since a function that asks numba for it cannot be cached
    tokens,
):
    for worker in prange(workers):
        _sample_rows(bits, temperatures, top_ks, top_ps, min_ps, numbers, worker, workers, tokens)


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    numbers: Tensor,
) -> Tensor:
    """See `kernels.sample.sample`; float32 on the CPU."""
    tokens = np.empty(logits.shape[0], np.int64)
    vectors = (temperatures, top_ks, top_ps, min_ps, numbers)
    bits = logits.contiguous().numpy().view(np.int32)
    inputs = (bits, *(vector.numpy() for vector in vectors))
    if logits.numel() >= PARALLEL:
        _sample_threaded(*inputs, min(get_num_threads(), logits.shape[0]), tokens)
    else:
        _sample_rows(*inputs, 0, 1, tokens)
    return from_numpy(tokens)
