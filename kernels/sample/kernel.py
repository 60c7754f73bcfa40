# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""sample in Triton: one program per row, which reads the row a tile at a time, several times over.

Logits are compared as whole numbers that order alike, so that a threshold is exact: three pivots
per pass quarter the range it lies in. Nothing depends on the settings but branches inside, so a
launch can be part of a captured graph.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

INFINITY = tl.constexpr(0x7F800000)  # the order of +inf; NaN lies beyond it, on either side
LOG2E = tl.constexpr(1.4426950408889634)
LARGEST_RATE = tl.constexpr(3e38)  # times 0 is 0
# the zero bits that end every number of that dtype, read as float32
SPARE_BITS = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}


@triton.jit
def order_of(number):
    """int32 that orders as the float32 does; both zeros are 0."""
    bits = number.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    return tl.where(bits < 0, -magnitude, magnitude)


@triton.jit
def number_of(order):
    """The float32 of that order."""
    magnitude = tl.abs(order).to(tl.float32, bitcast=True)
    return tl.where(order < 0, -magnitude, magnitude)


@triton.jit
def load_tile(row, start, vocabulary, BLOCK: tl.constexpr):
    entry = start + tl.arange(0, BLOCK)
    return tl.load(row + entry, mask=entry < vocabulary, other=-float("inf")).to(tl.float32)


@triton.jit
def weigh(number, largest, rate):
    """The mass of each entry, 1 for the largest."""
    exponent = (number - largest) * rate
    return tl.where(exponent < -126.0, 0.0, tl.exp2(exponent))


@triton.jit
def extent(row, vocabulary, BLOCK: tl.constexpr):
    """The largest and the lowest order of a row."""
    highest = tl.full([BLOCK], -0x7FFFFFFF, tl.int32)
    lowest = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
    for start in range(0, vocabulary, BLOCK):
        order = order_of(load_tile(row, start, vocabulary, BLOCK))
        highest = tl.maximum(highest, order)
        lowest = tl.minimum(lowest, order)
    return tl.max(highest, 0), tl.min(lowest, 0)


@triton.jit
def first_of(row, vocabulary, order, BLOCK: tl.constexpr):
    """The first entry of that order."""
    first = tl.full([BLOCK], 0x7FFFFFFF, tl.int32)
    for start in range(0, vocabulary, BLOCK):
        equal = order_of(load_tile(row, start, vocabulary, BLOCK)) == order
        first = tl.minimum(first, tl.where(equal, start + tl.arange(0, BLOCK), 0x7FFFFFFF))
    return tl.min(first, 0)


@triton.jit
def least_kept(
    row,
    vocabulary,
    lowest,
    highest,
    limit,
    largest,
    rate,
    COUNT: tl.constexpr,  # the mass of each entry is 1
    SPARE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The least order in lowest..highest that has less than `limit` of the mass above it; else
    `highest`."""
    low = lowest.to(tl.int64) >> SPARE  # the range may be wider than an int32
    high = highest.to(tl.int64) >> SPARE
    while low < high:
        span = high - low
        first, middle, last = low + span // 4, low + span // 2, low + span * 3 // 4
        first_number = number_of((first << SPARE).to(tl.int32))
        middle_number = number_of((middle << SPARE).to(tl.int32))
        last_number = number_of((last << SPARE).to(tl.int32))
        above_first = tl.zeros([BLOCK], tl.float32)
        above_middle = tl.zeros([BLOCK], tl.float32)
        above_last = tl.zeros([BLOCK], tl.float32)
        for start in range(0, vocabulary, BLOCK):
            number = load_tile(row, start, vocabulary, BLOCK)
            mass = tl.full([BLOCK], 1.0, tl.float32)
            if not COUNT:
                mass = weigh(number, largest, rate)
            above_first += tl.where(number > first_number, mass, 0.0)
            above_middle += tl.where(number > middle_number, mass, 0.0)
            above_last += tl.where(number > last_number, mass, 0.0)
        if tl.sum(above_middle, 0) < limit:
            high = middle
            if tl.sum(above_first, 0) < limit:
                high = first
            else:
                low = first + 1
        else:
            low = middle + 1
            if tl.sum(above_last, 0) < limit:
                high = last
            else:
                low = last + 1
    return (low << SPARE).to(tl.int32)


@triton.jit
def kept_tile(row, start, vocabulary, least, largest, rate, BLOCK: tl.constexpr):
    """The mass of a tile's entries of at least that order, 0 of others."""
    number = load_tile(row, start, vocabulary, BLOCK)
    return tl.where(order_of(number) >= least, weigh(number, largest, rate), 0.0)


@triton.jit
def mass_from(row, vocabulary, least, largest, rate, BLOCK: tl.constexpr):
    """The mass of the entries of at least that order."""
    mass = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        mass += kept_tile(row, start, vocabulary, least, largest, rate, BLOCK)
    return tl.sum(mass, 0)


@triton.jit
def invert(row, vocabulary, least, largest, rate, number, BLOCK: tl.constexpr):
    """The entry at which the mass of those of at least that order, in turn, exceeds its share."""
    total = 0.0
    for start in range(0, vocabulary, BLOCK):
        total += tl.sum(kept_tile(row, start, vocabulary, least, largest, rate, BLOCK), 0)
    target = number * total
    start = 0
    before = 0.0
    after = tl.sum(kept_tile(row, 0, vocabulary, least, largest, rate, BLOCK), 0)
    while (after <= target) & (start + BLOCK < vocabulary):
        start += BLOCK
        before = after
        after += tl.sum(kept_tile(row, start, vocabulary, least, largest, rate, BLOCK), 0)
    mass = kept_tile(row, start, vocabulary, least, largest, rate, BLOCK)
    entry = start + tl.arange(0, BLOCK)
    reached = (before + tl.cumsum(mass, 0) > target) & (mass > 0)
    token = tl.min(tl.where(reached, entry, 0x7FFFFFFF), 0)
    # Within the tile rounding may leave the target out of reach.
    last = tl.max(tl.where(mass > 0, entry, -1), 0)
    return tl.minimum(token, last)


@triton.jit
def draw(
    row,
    vocabulary,
    highest,
    lowest,
    temperature,
    top_k,
    top_p,
    min_p,
    number,
    SPARE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    largest = number_of(highest)
    rate = tl.minimum(1 / temperature * LOG2E, LARGEST_RATE)
    least = lowest
    if (top_k > 0) & (top_k < vocabulary):
        limit = top_k.to(tl.float32)
        least = least_kept(
            row, vocabulary, lowest, highest, limit, largest, rate, True, SPARE, BLOCK
        )
    kept = least
    if min_p > 0:
        cut = order_of(largest + tl.log2(min_p) / rate)
        kept = tl.maximum(kept, tl.minimum(cut, highest))
    if top_p < 1:
        total = mass_from(row, vocabulary, least, largest, rate, BLOCK)
        # All entries below this together are half of what top-p leaves out.
        cut = order_of(largest + tl.log2((1 - top_p) * total / (2 * vocabulary)) / rate)
        start = tl.maximum(kept, tl.minimum(cut, highest))
        nucleus = least_kept(
            row, vocabulary, start, highest, top_p * total, largest, rate, False, SPARE, BLOCK
        )
        kept = tl.maximum(kept, nucleus)
    return invert(row, vocabulary, kept, largest, rate, number, BLOCK)


@triton.jit
def sample_kernel(
    logits,  # [rows, vocabulary]
    temperatures,  # [rows]
    top_ks,
    top_ps,
    min_ps,
    numbers,
    chosen,  # [rows] int64
    vocabulary,
    row_stride,
    SPARE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * row_stride
    highest, lowest = extent(row, vocabulary, BLOCK)
    temperature = tl.load(temperatures + index)
    token = tl.full([], -1, tl.int32)
    if (highest < INFINITY) & (highest > -INFINITY) & (lowest >= -INFINITY):
        if temperature > 0:
            top_k = tl.load(top_ks + index)
            top_p = tl.load(top_ps + index)
            min_p = tl.load(min_ps + index)
            number = tl.load(numbers + index)
            token = draw(
                row,
                vocabulary,
                highest,
                lowest,
                temperature,
                top_k,
                top_p,
                min_p,
                number,
                SPARE,
                BLOCK,
            )
        else:
            token = first_of(row, vocabulary, highest, BLOCK)
    tl.store(chosen + index, token.to(tl.int64))


def tile_options(vocabulary: int) -> dict[str, int]:
    """Tile size and warps: at most eight entries a thread; tiles of 4096 spill on NVIDIA."""
    block = min(max(triton.next_power_of_2(vocabulary), 128), 2048)
    return {"BLOCK": block, "num_warps": max(block // 256, 4)}


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    numbers: Tensor,
) -> Tensor:
    """See `kernels.sample.sample`."""
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        sample_kernel[(rows,)](
            logits,
            temperatures,
            top_ks,
            top_ps,
            min_ps,
            numbers,
            tokens,
            vocabulary,
            logits.stride(0),
            SPARE=SPARE_BITS[logits.dtype],
            **tile_options(vocabulary),
        )
    return tokens
