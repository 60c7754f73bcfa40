# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped"
"""Sixteen slots of one KV head at a time, for numba functions: explicit vector code.

A tile is up to 16 slots of head_dim adjacent float32 numbers, head_dim a multiple of 16. Left to
itself LLVM adds up each slot's product across a vector and stores the weighted sums at every slot.
Here 16 dot products are added up together, by shuffles that turn them over, and the sums stay in
registers. A processor with shorter vectors gets each operation in parts.

Everything comes as an address, in bytes. numba's cache of compiled code is keyed by the file of the
function that is called, and does not see an edit of this one: delete the `*.nbi` files after it.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.addresses import floats, uint8s

F = np.float32
LANES = 16
FLOAT, INT = ir.FloatType(), ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)
BYTES = 4 * LANES  # of a vector
QUARTER = LANES // 4
TOGETHER = 8  # slots whose products are added up at once
FUSE = ("contract",)


def _load(builder, address, kind=VECTOR):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=4)


def _store(builder, vector, address):
    builder.store(vector, builder.inttoptr(address, VECTOR.as_pointer()), align=4)


def _plus(builder, address, offset):
    return builder.add(address, offset if isinstance(offset, ir.Value) else INT(offset))


def _multiply_add(builder, left, right, total):
    return builder.fadd(builder.fmul(left, right, flags=FUSE), total, flags=FUSE)


def _spread(builder, number):
    """The vector whose lanes are all `number`."""
    undefined = ir.Constant(VECTOR, ir.Undefined)
    lane = builder.insert_element(undefined, number, ir.IntType(32)(0))
    return _shuffle(builder, lane, undefined, [0] * LANES)


def _shuffle(builder, left, right, lanes):
    indices = ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes)
    return builder.shuffle_vector(left, right, indices)


def _variables(builder, count):
    """Vectors of zeros that a loop may change."""
    slots = [cgutils.alloca_once(builder, VECTOR) for _ in range(count)]
    for slot in slots:
        builder.store(ir.Constant(VECTOR, [0.0] * LANES), slot)
    return slots


def _halves(builder, left, right, width):
    """Adds the halves of every `4 * width` lanes: left's sums go first in each, then right's."""
    first, second = [], []
    for lane in range(LANES):
        from_right = LANES * (lane // (2 * width) % 2)
        first.append(from_right + lane)
        second.append(from_right + (lane ^ (2 * width)))
    parts = [_shuffle(builder, left, right, lanes) for lanes in (first, second)]
    return builder.fadd(*parts)


def _pairs(builder, left, right, width):
    """Adds every second `width` lanes to those before, in what `_halves` returned."""
    even, odd = [], []
    for lane in range(LANES):
        place = lane % (4 * width) // width  # 0 and 1 are left's sums, 2 and 3 right's
        start = LANES * (place // 2) + lane // (4 * width) * 4 * width + place % 2 * 2 * width
        even.append(start + lane % width)
        odd.append(start + width + lane % width)
    parts = [_shuffle(builder, left, right, lanes) for lanes in (even, odd)]
    return builder.fadd(*parts)


def _four(builder, vectors, width):
    """Turns four vectors over: `width` lanes of each, its sums over runs of `4 * width` lanes."""
    a, b, c, d = vectors
    left, right = _halves(builder, a, b, width), _halves(builder, c, d, width)
    return _pairs(builder, left, right, width)


@intrinsic
def dots(typing, query, tile, last, head_dim, target):
    """Stores 16 numbers at `target`: the products of `query` with the tile's slots 0 to 15.

    Slots past `last` are not read; their numbers are those of slot `last`.
    """

    def generate(context, builder, signature, arguments):
        query, tile, last, head_dim, target = arguments
        stride = builder.mul(head_dim, INT(4))
        fours = []
        for start in range(0, LANES, TOGETHER):
            rows = []
            for slot in range(start, start + TOGETHER):
                reach = builder.icmp_signed("<", INT(slot), last)
                offset = builder.mul(builder.select(reach, INT(slot), last), stride)
                rows.append(builder.add(tile, offset))
            sums = _variables(builder, TOGETHER)
            with cgutils.for_range(builder, builder.udiv(head_dim, INT(LANES))) as loop:
                shift = builder.mul(loop.index, INT(BYTES))
                part = _load(builder, builder.add(query, shift))
                for total, row in zip(sums, rows, strict=True):
                    numbers = _load(builder, builder.add(row, shift))
                    value = _multiply_add(builder, part, numbers, builder.load(total))
                    builder.store(value, total)
            for four in range(0, TOGETHER, 4):
                vectors = [builder.load(total) for total in sums[four : four + 4]]
                fours.append(_four(builder, vectors, 1))
        _store(builder, _four(builder, fours, QUARTER), target)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def fetch(typing, address, size):
    """Asks for the `size` bytes at `address` to be brought into the cache, 64 at a time."""

    def generate(context, builder, signature, arguments):
        address, size = arguments
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        with cgutils.for_range(builder, builder.udiv(size, INT(BYTES))) as loop:
            line = builder.add(address, builder.mul(loop.index, INT(BYTES)))
            builder.call(prefetch, [builder.inttoptr(line, byte), flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _adder(members, vectors):
    """A compiled function that adds weighted slots to `members` rows of 16 * `vectors` numbers."""

    def add(typing, weights, weight_stride, tile, row_stride, slots, total):
        def generate(context, builder, signature, arguments):
            weights, weight_stride, tile, row_stride, slots, total = arguments

            def add_slots(first, count, sums):
                """Slots first, first + 1, ... into a set of sums each."""
                for step in range(count):
                    slot = builder.add(first, INT(step))
                    row = builder.add(tile, builder.mul(slot, row_stride))
                    place = builder.add(weights, builder.mul(slot, INT(4)))
                    parts = [_load(builder, _plus(builder, row, BYTES * i)) for i in range(vectors)]
                    for member in range(members):
                        own = _plus(builder, place, builder.mul(INT(member), weight_stride))
                        weight = _spread(builder, _load(builder, own, FLOAT))
                        for part, sum_ in zip(parts, sums[step][member], strict=True):
                            value = _multiply_add(builder, weight, part, builder.load(sum_))
                            builder.store(value, sum_)

            # two sets of sums, since each addition waits for the one before it
            sums = [[_variables(builder, vectors) for _ in range(members)] for _ in range(2)]
            with cgutils.for_range(builder, builder.udiv(slots, INT(2))) as loop:
                add_slots(builder.mul(loop.index, INT(2)), 2, sums)
            with builder.if_then(builder.trunc(slots, ir.IntType(1))):
                add_slots(builder.sub(slots, INT(1)), 1, sums)
            for member in range(members):
                row = builder.add(total, builder.mul(INT(member), row_stride))
                for i in range(vectors):
                    place = _plus(builder, row, BYTES * i)
                    both = [builder.load(half[member][i]) for half in sums]
                    value = builder.fadd(_load(builder, place), builder.fadd(*both))
                    _store(builder, value, place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return intrinsic(add)


add_pair_32 = _adder(members=2, vectors=2)
add_pair_16 = _adder(members=2, vectors=1)
add_32 = _adder(members=1, vectors=2)
add_16 = _adder(members=1, vectors=1)


@njit(nogil=True)
def score(query, tile, slots, head_dim, logits):
    """Stores 16 logits of a tile; those past `slots` mean nothing. The usual sizes are constants
    in the compiled code.
    """
    if slots < LANES:
        dots(query, tile, slots - 1, head_dim, logits)
    elif head_dim == 32:
        dots(query, tile, 15, 32, logits)
    elif head_dim == 64:
        dots(query, tile, 15, 64, logits)
    elif head_dim == 128:
        dots(query, tile, 15, 128, logits)
    else:
        dots(query, tile, 15, head_dim, logits)


@njit(nogil=True)
def accumulate(weights, stride, tile, slots, head_dim, group, total):
    """total[member] += weights[member, :slots] @ tile[:slots]; two members share the loads of it.

    `stride` is from one member's weights to the next one's, in bytes.
    """
    row = 4 * head_dim
    last = row - 64  # where the last 16 numbers start
    for member in range(0, group - 1, 2):
        own, sums = weights + member * stride, total + member * row
        if slots == LANES and head_dim == 32:
            add_pair_32(own, stride, tile, 128, 16, sums)
        elif slots == LANES and head_dim == 128:
            for part in range(0, 512, 128):
                add_pair_32(own, stride, tile + part, 512, 16, sums + part)
        else:
            for part in range(0, last, 128):
                add_pair_32(own, stride, tile + part, row, slots, sums + part)
            if head_dim % 32:
                add_pair_16(own, stride, tile + last, row, slots, sums + last)
    if group % 2:
        own, sums = weights + (group - 1) * stride, total + (group - 1) * row
        for part in range(0, last, 128):
            add_32(own, stride, tile + part, row, slots, sums + part)
        if head_dim % 32:
            add_16(own, stride, tile + last, row, slots, sums + last)


@njit(fastmath=True, nogil=True)
def _decode(codes, target):
    """target[:] = the numbers that the float8_e4m3fn `codes` stand for.

    A table of the 256 would be looked up one by one; this is branch-free and vectorises.
    """
    for dim in range(codes.shape[0]):
        code = np.int32(codes[dim])
        size = code & np.int32(0x7F)
        # exponents are 7 too large here and 127 too large in float32
        bits = (size << np.int32(20)) + np.int32(120 << 23)
        tiny = F(F(size) * F(2.0**-9)).view(np.int32)
        bits = tiny if size < np.int32(8) else bits
        bits = np.int32(0x7FC00000) if size == np.int32(0x7F) else bits  # NaN
        sign = (code & np.int32(0x80)) << np.int32(24)
        target[dim] = np.int32(bits | sign).view(np.float32)


@njit(nogil=True)
def tile_at(address, item, slots, head_dim, width, scratch):
    """The address of a tile of `width` numbers a slot, from slots of head_dim numbers at `address`.

    That is `address` itself where they are floats (`item`, their size in bytes, is 4) of that
    width; if not, `scratch`, where they are padded, and decoded if they are fp8 codes (1 byte).
    """
    if item == 4 and width == head_dim:
        return address
    for slot in range(slots):
        source, copy = (
            address + item * slot * head_dim,
            floats(scratch + 4 * slot * width, head_dim),
        )
        if item == 1:
            _decode(uint8s(source, head_dim), copy)
        else:
            copy[:] = floats(source, head_dim)
    return scratch
