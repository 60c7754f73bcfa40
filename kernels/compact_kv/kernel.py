# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""compact_kv in Triton, one launch: a program moves the keys, or the values, of one sequence, layer
and head.

It goes through the targets in tiles, in order. What a tile reads lies at or after its own first
target, so tiles cannot disturb later ones; within a tile all reads come before all writes. A
program is one warp, which issues its memory operations in order: between warps the barrier would
not do on AMD GPUs, where it does not wait for loads.
"""

from functools import cache

import triton
import triton.language as tl
from torch import Tensor


@cache
def move_options(head_dim: int, itemsize: int) -> dict[str, int]:
    """Tile sizes and launch options: tiles of about 8 KiB, which one warp's registers hold."""
    dim = triton.next_power_of_2(head_dim)
    return {
        "BLOCK_SLOTS": max(8, min(64, 8192 // (dim * itemsize))),
        "BLOCK_DIM": dim,
        "num_warps": 1,
    }


@triton.jit
def move(
    pool,  # [layers, blocks, kv_heads, block_size, head_dim]
    per_slot,  # [layers, blocks, kv_heads, block_size]
    kept,  # this program's row, [count]
    table,  # this program's row, [max_blocks]
    first_row,  # the layer's and head's first row of the pool, counted in slots
    count,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_PER_SLOT: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    dim = tl.arange(0, BLOCK_DIM)
    in_head = dim < HEAD_DIM
    for start in range(0, count, BLOCK_SLOTS):
        target = start + tl.arange(0, BLOCK_SLOTS)
        source = tl.load(kept + target, mask=target < count, other=0).to(tl.int32)
        moved = (target < count) & (source != target)
        old = tl.load(table + source // BLOCK_SIZE, mask=moved, other=0).to(tl.int64)
        new = tl.load(table + target // BLOCK_SIZE, mask=moved, other=0).to(tl.int64)
        old = first_row + old * (KV_HEADS * BLOCK_SIZE) + source % BLOCK_SIZE  # [slots]
        new = first_row + new * (KV_HEADS * BLOCK_SIZE) + target % BLOCK_SIZE
        mask = moved[:, None] & in_head[None, :]
        rows = tl.load(
            pool + old[:, None] * HEAD_DIM + dim[None, :], mask=mask
        )  # [slots, head_dim]
        if HAS_PER_SLOT:
            numbers = tl.load(per_slot + old, mask=moved)
        tl.debug_barrier()
        tl.store(pool + new[:, None] * HEAD_DIM + dim[None, :], rows, mask=mask)
        if HAS_PER_SLOT:
            tl.store(per_slot + new, numbers, mask=moved)


@triton.jit(
    do_not_specialize=["table_stride", "count", "blocks"],
    do_not_specialize_on_alignment=["block_tables", "kept"],
)
def compact_kv_kernel(
    keys,
    values,
    slot_positions,
    slot_mass,
    block_tables,
    kept,  # [sequences, layers * kv_heads, count]
    table_stride,
    count,
    blocks,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_MASS: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    sequence = tl.program_id(0).to(tl.int64)
    lane = tl.program_id(1)  # layer * KV_HEADS + kv_head
    layer = (lane // KV_HEADS).to(tl.int64)
    first_row = (layer * blocks * KV_HEADS + lane % KV_HEADS) * BLOCK_SIZE
    kept += (sequence * tl.num_programs(1) + lane) * count
    table = block_tables + sequence * table_stride
    if tl.program_id(2) == 0:
        move(
            keys,
            slot_positions,
            kept,
            table,
            first_row,
            count,
            KV_HEADS,
            HEAD_DIM,
            BLOCK_SIZE,
            True,
            BLOCK_SLOTS,
            BLOCK_DIM,
        )
    else:
        move(
            values,
            slot_mass,
            kept,
            table,
            first_row,
            count,
            KV_HEADS,
            HEAD_DIM,
            BLOCK_SIZE,
            HAS_MASS,
            BLOCK_SLOTS,
            BLOCK_DIM,
        )


def compact_kv(
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    block_tables: Tensor,
    kept: Tensor,
    slot_mass: Tensor | None,
) -> None:
    """See `kernels.compact_kv.compact_kv`."""
    layers, blocks, kv_heads, block_size, head_dim = keys.shape
    sequences, _, _, count = kept.shape
    if sequences == 0 or count == 0:
        return
    compact_kv_kernel[(sequences, layers * kv_heads, 2)](
        keys,
        values,
        slot_positions,
        slot_positions if slot_mass is None else slot_mass,
        block_tables,
        kept,
        block_tables.stride(0),
        count,
        blocks,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        HAS_MASS=slot_mass is not None,
        **move_options(head_dim, keys.element_size()),
    )
