# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""paged_decode in Triton: split-KV, all query heads of a group in one tile.

One program attends over one split of one sequence's slots for one KV head; a second kernel merges
the splits. The length of a split is fixed (it grows only for tables above 16,384 slots), so a row
is always added up in the same order, whatever shares its batch, and the grid is static for a given
table width, as a CUDA graph needs.
"""

from functools import cache
from math import e, log2

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arithmetic import dot, narrow
from kernels.families import Family, family

SPLIT_TOKENS = 512  # a split's partial result is then 1-3 % of the bytes it reads (groups 4 to 8)
MAX_SPLITS = 32  # bounds the scratch memory and makes the merge one tile


def split_tokens(max_blocks: int, block_size: int) -> int:
    """Slots per split for a table of that width: 512, doubled until MAX_SPLITS cover the table."""
    tokens = SPLIT_TOKENS
    while tokens * MAX_SPLITS < max_blocks * block_size:
        tokens *= 2
    return tokens


def num_splits(max_blocks: int, block_size: int) -> int:
    """Splits launched per sequence and KV head, at least 1; depends on the table's width alone."""
    return max(1, -(-max_blocks * block_size // split_tokens(max_blocks, block_size)))


@cache
def split_options(group: int, head_dim: int, itemsize: int, family: Family) -> dict[str, int]:
    """Tile sizes and launch options of the split kernel: the largest tiles that do not spill.

    `itemsize` is bytes per number of the query; float32 is multiplied from registers, outside the
    tensor cores.
    """
    cdna = family is Family.CDNA
    tokens = 64 if head_dim <= 128 and not cdna else 32
    return {
        "BLOCK_GROUP": max(
            16, triton.next_power_of_2(group)
        ),  # 16 rows: the least a tensor core takes
        "BLOCK_DIM": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_TOKENS": 16 if itemsize == 4 else tokens,
        # 8: float32 made of fp8 takes twice the registers of float32 that is loaded
        "num_warps": 8 if itemsize == 4 and head_dim > 64 else 4,
        "num_stages": 2
        if cdna
        else 3,  # 3: the block table is fetched a step ahead of keys and values
    }


# these are slices of larger buffers at times: their alignment must not choose another binary
SLICES = ["block_tables", "lengths", "slot_positions", "query_positions"]
SLICES += ["key_scales", "value_scales"]


@triton.jit(
    do_not_specialize=["table_stride", "splits", "window"], do_not_specialize_on_alignment=SLICES
)
def paged_decode_split_kernel(
    query,
    keys,
    values,
    block_tables,
    lengths,
    slot_positions,
    query_positions,
    key_scales,  # [kv_heads], of an fp8 pool
    value_scales,
    partial,  # [sequences, heads, splits, head_dim] float32, not yet divided by the sum
    partial_max,  # [sequences, heads, splits] float32, base-2 logits
    partial_sum,  # [sequences, heads, splits] float32
    query_row_stride,
    query_head_stride,
    table_stride,
    splits,
    scale,  # times log2(e)
    window,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(lengths + sequence)
    first = split * SPLIT
    last = tl.minimum(first + SPLIT, length)
    if HAS_WINDOW:
        # positions ascend, so earlier slots are outside the window; whole tiles keep the sums'
        # order
        oldest = tl.maximum(length - window, 0)
        first = tl.maximum(first, oldest // BLOCK_TOKENS * BLOCK_TOKENS)
        query_position = tl.load(query_positions + sequence)
    if first >= last:
        return

    member = tl.arange(0, BLOCK_GROUP)
    dim = tl.arange(0, BLOCK_DIM)
    head = (kv_head * GROUP + member).to(tl.int64)
    in_group = member < GROUP
    in_head = dim < HEAD_DIM
    group_mask = in_group[:, None] & in_head[None, :]
    query += sequence * query_row_stride
    own = tl.load(
        query + head[:, None] * query_head_stride + dim[None, :], mask=group_mask, other=0.0
    )  # [group, head_dim]

    if HAS_SCALES:
        scale *= tl.load(key_scales + kv_head)

    maximum = tl.full([BLOCK_GROUP], -1e30, tl.float32)
    total = tl.zeros([BLOCK_GROUP], tl.float32)
    result = tl.zeros([BLOCK_GROUP, BLOCK_DIM], tl.float32)
    table = block_tables + sequence * table_stride
    token = tl.arange(0, BLOCK_TOKENS)
    for start in range(first, last, BLOCK_TOKENS):
        slot = start + token
        valid = slot < last
        block = tl.load(table + slot // BLOCK_SIZE, mask=valid, other=0).to(tl.int64)
        row = (block * KV_HEADS + kv_head) * BLOCK_SIZE + slot % BLOCK_SIZE  # [tokens]
        place = row[:, None] * HEAD_DIM + dim[None, :]  # [tokens, head_dim]
        mask = valid[:, None] & in_head[None, :]
        key = tl.load(keys + place, mask=mask, other=0.0).to(own.dtype)
        zeros = tl.zeros([BLOCK_GROUP, BLOCK_TOKENS], tl.float32)
        logits = dot(own, tl.trans(key), zeros) * scale  # [group, tokens]
        if HAS_WINDOW:
            position = tl.load(slot_positions + row, mask=valid, other=0)
            valid = valid & (query_position - position < window)
        logits = tl.where(valid[None, :], logits, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(logits, 1))
        weights = tl.exp2(logits - new_maximum[:, None])
        decay = tl.exp2(maximum - new_maximum)
        total = total * decay + tl.sum(weights, 1)
        value = tl.load(values + place, mask=mask, other=0.0).to(own.dtype)
        result = dot(narrow(weights, value.dtype), value, result * decay[:, None])
        maximum = new_maximum

    if HAS_SCALES:
        result *= tl.load(value_scales + kv_head)
    part = (sequence * KV_HEADS * GROUP + head) * splits + split  # [group]
    tl.store(partial + part[:, None] * HEAD_DIM + dim[None, :], result, mask=group_mask)
    tl.store(partial_max + part, maximum, mask=in_group)
    tl.store(partial_sum + part, total, mask=in_group)


@triton.jit(do_not_specialize=["splits", "window"], do_not_specialize_on_alignment=["lengths"])
def paged_decode_merge_kernel(
    partial,
    partial_max,
    partial_sum,
    lengths,
    out,  # [sequences, heads, head_dim]
    splits,
    window,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    row = sequence * HEADS + tl.program_id(1)
    length = tl.load(lengths + sequence)
    split = tl.arange(0, BLOCK_SPLITS)
    dim = tl.arange(0, BLOCK_DIM)
    in_head = dim < HEAD_DIM
    used = split * SPLIT < length
    if HAS_WINDOW:
        used = used & (split * SPLIT + SPLIT > length - window)
    part = row * splits + split  # [splits]
    maximum = tl.load(partial_max + part, mask=used, other=-1e30)
    weight = tl.where(used, tl.exp2(maximum - tl.max(maximum, 0)), 0.0)
    total = tl.sum(weight * tl.load(partial_sum + part, mask=used, other=0.0), 0)
    result = tl.load(
        partial + part[:, None] * HEAD_DIM + dim[None, :],
        mask=used[:, None] & in_head[None, :],
        other=0.0,
    )  # [splits, head_dim]
    # a sequence without slots has total 0 and a result of zeros
    mean = tl.sum(result * weight[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + row * HEAD_DIM + dim, narrow(mean, out.dtype.element_ty), mask=in_head)


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
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """See `kernels.paged_decode.paged_decode`."""
    sequences, heads, head_dim = query.shape
    kv_heads, block_size = keys.shape[1], keys.shape[2]
    if query.stride(2) != 1:
        query = query.contiguous()
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if sequences == 0:
        return out
    split = split_tokens(block_tables.shape[1], block_size)
    splits = num_splits(block_tables.shape[1], block_size)
    partial = torch.empty(
        (sequences, heads, splits, head_dim), dtype=torch.float32, device=query.device
    )
    partial_max = torch.empty((sequences, heads, splits), dtype=torch.float32, device=query.device)
    partial_sum = torch.empty_like(partial_max)
    options = split_options(heads // kv_heads, head_dim, query.element_size(), family())
    paged_decode_split_kernel[(sequences, kv_heads, splits)](
        query,
        keys,
        values,
        block_tables,
        lengths,
        lengths if slot_positions is None else slot_positions,
        lengths if query_positions is None else query_positions,
        lengths if key_scales is None else key_scales,
        lengths if value_scales is None else value_scales,
        partial,
        partial_max,
        partial_sum,
        query.stride(0),
        query.stride(1),
        block_tables.stride(0),
        splits,
        scale * log2(e),
        0 if window is None else window,
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        SPLIT=split,
        HAS_WINDOW=window is not None,
        HAS_SCALES=key_scales is not None,
        **options,
    )
    paged_decode_merge_kernel[(sequences, heads)](
        partial,
        partial_max,
        partial_sum,
        lengths,
        out,
        splits,
        0 if window is None else window,
        HEADS=heads,
        HEAD_DIM=head_dim,
        SPLIT=split,
        HAS_WINDOW=window is not None,
        BLOCK_SPLITS=MAX_SPLITS,
        BLOCK_DIM=options["BLOCK_DIM"],
        num_warps=4,
    )
    return out
