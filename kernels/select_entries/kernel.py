# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""select_entries in Triton: an entry stays if fewer than `count` others rank above it.

Every pair of a row's entries is compared, in registers; rows are as short as a cache after
eviction. A second kernel turns what stays into places by counting along the row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_TOKENS = 64  # both sides of a tile of comparisons
MARK_WARPS = 8  # fewer spill on CDNA
BLOCK_ROW = 1024  # entries whose places are counted at a time


@triton.jit
def load_order(row, slot, tokens, pinned, recent):
    """int32 that sort as the scores do: NaN lowest, infinities finite, what stays on top."""
    bits = tl.load(row + slot, mask=slot < tokens, other=0.0).to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    limited = tl.minimum(magnitude, 0x7F7FFFFF)  # the largest float32
    order = tl.where(bits >= 0, limited, ~limited)
    order = tl.where(magnitude == 0, 0, order)  # -0
    order = tl.where(magnitude > 0x7F800000, ~0x7F7FFFFF, order)
    stays = (slot < pinned) | (slot >= tokens - recent)
    return tl.where(stays, 0x7FFFFFFF, order)


@triton.jit(do_not_specialize=["tokens", "count"])
def select_mark_kernel(
    scores,  # [rows, tokens] float32
    pinned,  # [sequences] int64
    recent_entries,
    stays,  # [rows, tokens] int8
    tokens,
    count,
    ROWS_PER_SEQUENCE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    own_pinned = tl.load(pinned + row // ROWS_PER_SEQUENCE).to(tl.int32)
    own_recent = tl.load(recent_entries + row // ROWS_PER_SEQUENCE).to(tl.int32)
    scores += row * tokens
    slot = tl.program_id(1) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    own = load_order(scores, slot, tokens, own_pinned, own_recent)
    above = tl.zeros([BLOCK_TOKENS], tl.int32)
    for start in range(0, tokens, BLOCK_TOKENS):
        other = start + tl.arange(0, BLOCK_TOKENS)
        order = load_order(scores, other, tokens, own_pinned, own_recent)
        newer = (order[None, :] == own[:, None]) & (other[None, :] > slot[:, None])
        higher = (order[None, :] > own[:, None]) | newer
        higher = higher & (other[None, :] < tokens)
        above += tl.sum(higher.to(tl.int32), 1)
    tl.store(stays + row * tokens + slot, (above < count).to(tl.int8), mask=slot < tokens)


@triton.jit(do_not_specialize=["tokens", "count"])
def select_place_kernel(
    stays,  # [rows, tokens] int8
    kept_entries,  # [rows, count] int64
    tokens,
    count,
    BLOCK_ROW: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    before = 0
    for start in range(0, tokens, BLOCK_ROW):
        slot = start + tl.arange(0, BLOCK_ROW)
        stay = tl.load(stays + row * tokens + slot, mask=slot < tokens, other=0).to(tl.int32)
        place = before + tl.cumsum(stay, 0) - 1
        tl.store(kept_entries + row * count + place, slot.to(tl.int64), mask=stay == 1)
        before += tl.sum(stay, 0)


def select_entries(scores: Tensor, count: int, pinned: Tensor, recent: Tensor) -> Tensor:
    """See `kernels.select_entries.select_entries`."""
    sequences, layers, kv_heads, tokens = scores.shape
    out = torch.empty((*scores.shape[:3], count), dtype=torch.int64, device=scores.device)
    if out.numel() == 0:
        return out
    rows = sequences * layers * kv_heads
    stays = torch.empty((rows, tokens), dtype=torch.int8, device=scores.device)
    select_mark_kernel[rows, triton.cdiv(tokens, BLOCK_TOKENS)](
        scores.contiguous(),
        pinned.contiguous(),
        recent.contiguous(),
        stays,
        tokens,
        count,
        ROWS_PER_SEQUENCE=layers * kv_heads,
        BLOCK_TOKENS=BLOCK_TOKENS,
        num_warps=MARK_WARPS,
    )
    select_place_kernel[rows,](stays, out, tokens, count, BLOCK_ROW=BLOCK_ROW, num_warps=4)
    return out
