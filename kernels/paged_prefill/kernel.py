# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""paged_prefill in Triton: a tile holds a run of query tokens of one sequence, each with its whole
head group.

The grid is known without reading query_starts back from the GPU: sequence s owns the tiles from
query_starts[s] // tokens_per_tile + s on, a program finds its sequence by bisection, and spare
programs leave.
"""

from functools import cache
from math import e, log2

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arithmetic import dot, narrow
from kernels.families import Family, family


@cache
def tile_options(group: int, head_dim: int, itemsize: int, family: Family) -> dict[str, int]:
    """Tile sizes and launch options; `itemsize` is bytes per number of the query.

    Rows are query tokens times heads of the group. Each tile is the largest that does not spill.
    """
    rows, tokens = (128, 64) if family is Family.HOPPER else (128, 32)
    if head_dim > 128:
        rows, tokens = (64, 16) if family is Family.CDNA else (64, 32)
    if itemsize == 4:  # float32 is multiplied from registers, outside the tensor cores
        rows, tokens = 16, 16
    return {
        "BLOCK_ROWS": max(rows, triton.next_power_of_2(group)),
        "BLOCK_DIM": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_TOKENS": tokens,
        # float32 made of fp8 takes twice the registers of float32 that is loaded
        "num_warps": 4 if itemsize == 4 and head_dim <= 64 else 8,
        "num_stages": 2,
    }


# these are slices of larger buffers at times: their alignment must not choose another binary
SLICES = ["block_tables", "lengths", "query_starts", "slot_positions", "query_positions"]
SLICES += ["key_scales", "value_scales"]


@triton.jit(
    do_not_specialize=["table_stride", "sequences", "window"],
    do_not_specialize_on_alignment=SLICES,
)
def paged_prefill_kernel(
    query,
    keys,
    values,
    block_tables,
    lengths,
    query_starts,
    slot_positions,
    query_positions,
    key_scales,  # [kv_heads], of an fp8 pool
    value_scales,
    out,  # [tokens, heads, head_dim]
    query_row_stride,
    query_head_stride,
    table_stride,
    sequences,
    scale,  # times log2(e)
    window,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    TILE: tl.constexpr = BLOCK_ROWS // GROUP  # query tokens per tile
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = tl.zeros([], tl.int32)
    beyond = sequences
    while beyond - sequence > 1:
        middle = (sequence + beyond) // 2
        before = tl.load(query_starts + middle) // TILE + middle <= tile
        sequence = tl.where(before, middle, sequence)
        beyond = tl.where(before, beyond, middle)
    first = tl.load(query_starts + sequence)
    last = tl.load(query_starts + sequence + 1)
    begin = first + (tile - first // TILE - sequence) * TILE
    if begin >= last:
        return

    index = tl.arange(0, BLOCK_ROWS)
    dim = tl.arange(0, BLOCK_DIM)
    token = begin + index // GROUP  # [rows]
    head = kv_head * GROUP + index % GROUP
    real = (token < last) & (index < TILE * GROUP)
    in_head = dim < HEAD_DIM
    own_mask = real[:, None] & in_head[None, :]
    row = token.to(tl.int64) * query_row_stride + head * query_head_stride
    own = tl.load(query + row[:, None] + dim[None, :], mask=own_mask, other=0.0)  # [rows, head_dim]

    shift = tl.load(lengths + sequence) - last + 1
    visible = tl.where(real, token + shift, 0)  # [rows], slots seen
    end = tl.minimum(begin + TILE, last) - 1 + shift
    start_slot = 0
    if HAS_WINDOW:
        # positions ascend, so earlier slots are outside every row's window
        start_slot = tl.maximum(begin + shift - window, 0) // BLOCK_TOKENS * BLOCK_TOKENS
        query_position = tl.load(query_positions + token, mask=real, other=0)

    if HAS_SCALES:
        scale *= tl.load(key_scales + kv_head)

    maximum = tl.full([BLOCK_ROWS], -1e30, tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    result = tl.zeros([BLOCK_ROWS, BLOCK_DIM], tl.float32)
    table = block_tables + sequence.to(tl.int64) * table_stride
    offset = tl.arange(0, BLOCK_TOKENS)
    for start in range(start_slot, end, BLOCK_TOKENS):
        slot = start + offset
        valid = slot < end
        block = tl.load(table + slot // BLOCK_SIZE, mask=valid, other=0).to(tl.int64)
        place = (block * KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE  # [tokens]
        spot = place[:, None] * HEAD_DIM + dim[None, :]  # [tokens, head_dim]
        mask = valid[:, None] & in_head[None, :]
        key = tl.load(keys + spot, mask=mask, other=0.0).to(own.dtype)
        zeros = tl.zeros([BLOCK_ROWS, BLOCK_TOKENS], tl.float32)
        logits = dot(own, tl.trans(key), zeros) * scale  # [rows, tokens]
        seen = slot[None, :] < visible[:, None]
        if HAS_WINDOW:
            position = tl.load(slot_positions + place, mask=valid, other=0)
            seen = seen & (query_position[:, None] - position[None, :] < window)
        logits = tl.where(seen, logits, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(logits, 1))
        weights = tl.exp2(logits - new_maximum[:, None])
        decay = tl.exp2(maximum - new_maximum)
        total = total * decay + tl.sum(weights, 1)
        value = tl.load(values + spot, mask=mask, other=0.0).to(own.dtype)
        result = dot(narrow(weights, value.dtype), value, result * decay[:, None])
        maximum = new_maximum

    # a row that sees nothing has total 0 and a result of zeros
    result = result / tl.where(total > 0, total, 1.0)[:, None]
    if HAS_SCALES:
        result *= tl.load(value_scales + kv_head)
    row = (token.to(tl.int64) * KV_HEADS * GROUP + head) * HEAD_DIM
    tl.store(out + row[:, None] + dim[None, :], narrow(result, out.dtype.element_ty), mask=own_mask)


def paged_prefill(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    query_starts: Tensor,
    scale: float,
    window: int | None,
    slot_positions: Tensor | None,
    query_positions: Tensor | None,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """See `kernels.paged_prefill.paged_prefill`."""
    tokens, heads, head_dim = query.shape
    sequences, kv_heads = lengths.shape[0], keys.shape[1]
    if query.stride(2) != 1:
        query = query.contiguous()
    out = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
    if tokens == 0 or sequences == 0:
        return out
    group = heads // kv_heads
    options = tile_options(group, head_dim, query.element_size(), family())
    tiles = tokens // (options["BLOCK_ROWS"] // group) + sequences
    paged_prefill_kernel[(tiles, kv_heads)](
        query,
        keys,
        values,
        block_tables,
        lengths,
        query_starts,
        lengths if slot_positions is None else slot_positions,
        lengths if query_positions is None else query_positions,
        lengths if key_scales is None else key_scales,
        lengths if value_scales is None else value_scales,
        out,
        query.stride(0),
        query.stride(1),
        block_tables.stride(0),
        sequences,
        scale * log2(e),
        0 if window is None else window,
        KV_HEADS=kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=keys.shape[2],
        HAS_WINDOW=window is not None,
        HAS_SCALES=key_scales is not None,
        **options,
    )
    return out
