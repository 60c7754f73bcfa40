# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""key_redundancy in Triton: a program takes a tile of rows through all tiles of keys.

Cosines live in registers only. For the mean, the first kernel leaves each row's sum (the matrix is
symmetric: that is its column's sum too) and whom it excuses by what cosine; the second takes the
excused cosines off again. Nothing is added atomically, so results repeat. Products are of the keys
as they are and divided by both lengths afterwards: units would lose digits in bfloat16.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arithmetic import dot

BLOCK_EXCUSED = 64  # rows and columns of a tile of the second kernel


@cache
def tile_options(head_dim: int, itemsize: int) -> dict[str, int]:
    """Tile sizes and launch options; float32 is multiplied from registers, hence small tiles."""
    return {
        "BLOCK_ROWS": 16 if itemsize == 4 else 64,
        "BLOCK_TOKENS": 16 if itemsize == 4 else 64,
        "BLOCK_DIM": max(16, triton.next_power_of_2(head_dim)),
        "num_warps": 4,
        "num_stages": 2,
    }


# slices of larger buffers at times: their alignment must not choose another binary
SLICES = ["keys"]


@triton.jit
def load_keys(
    keys,  # of one cache
    token_stride,
    token,
    tokens,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """The keys `token`, [tokens, head_dim], and 1 / their lengths."""
    dim = tl.arange(0, BLOCK_DIM)
    tile = tl.load(
        keys + token[:, None] * token_stride + dim[None, :],
        mask=(token < tokens)[:, None] & (dim < HEAD_DIM)[None, :],
        other=0.0,
    )
    wide = tile.to(tl.float32)
    length = tl.sqrt(tl.sum(wide * wide, 1))
    return tile, 1 / tl.maximum(length, 1e-12)


@triton.jit(do_not_specialize=["tokens"], do_not_specialize_on_alignment=SLICES)
def redundancy_rows_kernel(
    keys,
    scores,  # [caches, tokens] float32: largest cosine to a newer key, or the row's sum
    excused,  # [caches, tokens] int32, for the mean: whom the row excuses; -1: nobody
    excused_cosine,  # [caches, tokens] float32
    cache_stride,
    token_stride,
    tokens,
    excused_above,
    HEAD_DIM: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    cache = tl.program_id(0).to(tl.int64)
    keys += cache * cache_stride
    first = tl.program_id(1) * BLOCK_ROWS
    row = first + tl.arange(0, BLOCK_ROWS)
    own, own_share = load_keys(keys, token_stride, row, tokens, HEAD_DIM, BLOCK_DIM)
    result = tl.zeros([BLOCK_ROWS], tl.float32)
    newest = tl.full([BLOCK_ROWS], -1, tl.int32)
    newest_cosine = tl.zeros([BLOCK_ROWS], tl.float32)
    zeros = tl.zeros([BLOCK_ROWS, BLOCK_TOKENS], tl.float32)
    start = 0
    if not MEAN:
        start = first // BLOCK_TOKENS * BLOCK_TOKENS  # older keys do not count
    for begin in range(start, tokens, BLOCK_TOKENS):
        token = begin + tl.arange(0, BLOCK_TOKENS)
        tile, share = load_keys(keys, token_stride, token, tokens, HEAD_DIM, BLOCK_DIM)
        cosines = dot(own, tl.trans(tile), zeros) * own_share[:, None] * share[None, :]
        if MEAN:
            # keys past the last are zeros: they add nothing and excuse nobody
            cosines = tl.where(row[:, None] == token[None, :], 0.0, cosines)
            alike = cosines > excused_above
            last = tl.max(tl.where(alike, token[None, :], -1), 1)
            chosen = tl.where(token[None, :] == last[:, None], cosines, 0.0)
            newest_cosine = tl.where(last >= 0, tl.sum(chosen, 1), newest_cosine)
            newest = tl.maximum(newest, last)
            result += tl.sum(cosines, 1)
        else:
            newer = token[None, :] > row[:, None]
            result = tl.maximum(result, tl.max(tl.where(newer, cosines, 0.0), 1))
    place = cache * tokens + row
    if MEAN:
        tl.store(excused + place, newest, mask=row < tokens)
        tl.store(excused_cosine + place, newest_cosine, mask=row < tokens)
    else:
        result = tl.minimum(result, 1.0)
    tl.store(scores + place, result, mask=row < tokens)


@triton.jit(do_not_specialize=["tokens"])
def redundancy_excuse_kernel(
    scores,  # [caches, tokens] float32: the sum, becomes the mean
    excused,
    excused_cosine,
    tokens,
    BLOCK_EXCUSED: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * tokens  # of the cache
    token = tl.program_id(1) * BLOCK_EXCUSED + tl.arange(0, BLOCK_EXCUSED)
    total = tl.load(scores + first + token, mask=token < tokens, other=0.0)
    for begin in range(0, tokens, BLOCK_EXCUSED):
        row = begin + tl.arange(0, BLOCK_EXCUSED)
        whom = tl.load(excused + first + row, mask=row < tokens, other=-1)
        cosine = tl.load(excused_cosine + first + row, mask=row < tokens, other=0.0)
        total -= tl.sum(tl.where(whom[:, None] == token[None, :], cosine[:, None], 0.0), 0)
    tl.store(scores + first + token, total / tokens, mask=token < tokens)


def key_redundancy(keys: Tensor, excused_above: float | None) -> Tensor:
    """See `kernels.key_redundancy.key_redundancy`."""
    caches, tokens, head_dim = keys.shape
    keys = keys if keys.stride(2) == 1 else keys.contiguous()
    out = torch.empty((caches, tokens), dtype=torch.float32, device=keys.device)
    if caches == 0:
        return out
    mean = excused_above is not None
    excused = torch.empty(out.shape if mean else (0,), dtype=torch.int32, device=keys.device)
    excused_cosine = torch.empty_like(out if mean else out[:0])
    options = tile_options(head_dim, keys.element_size())
    redundancy_rows_kernel[caches, triton.cdiv(tokens, options["BLOCK_ROWS"])](
        keys,
        out,
        excused,
        excused_cosine,
        keys.stride(0),
        keys.stride(1),
        tokens,
        excused_above or 0.0,
        HEAD_DIM=head_dim,
        MEAN=mean,
        **options,
    )
    if mean:
        redundancy_excuse_kernel[caches, triton.cdiv(tokens, BLOCK_EXCUSED)](
            out, excused, excused_cosine, tokens, BLOCK_EXCUSED=BLOCK_EXCUSED, num_warps=4
        )
    return out
