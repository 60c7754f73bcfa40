# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""trigonometric_score in Triton: a program scores a tile of one cache's tokens for all its heads.

Few operations per key that is read, so they are plain float32 ones, not matrix products, which
would round the queries to the keys' dtype. The phases, a few per head, are torch's, in float64.
"""

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.trigonometric_score.reference import as_complex, turned


@cache
def tile_options(head_dim: int) -> dict[str, int]:
    """Tile sizes and launch options: two halves of a key tile, 16 numbers each per thread."""
    half = triton.next_power_of_2(head_dim // 2)
    return {"BLOCK_HALF": half, "BLOCK_TOKENS": max(16, 2048 // half), "num_warps": 4}


# slices of larger buffers at times: their alignment must not choose another binary
SLICES = ["keys"]


@triton.jit(do_not_specialize=["tokens"], do_not_specialize_on_alignment=SLICES)
def trigonometric_score_kernel(
    keys,
    asking,  # [sequences, layers, heads, head_dim] float32
    spread,  # [layers, heads, head_dim / 2] float32
    scores,  # [sequences, layers, heads, tokens] float32
    cache_stride,
    token_stride,
    tokens,
    LAYERS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    cache = tl.program_id(0).to(tl.int64)  # of a sequence, layer and KV head
    token = tl.program_id(1) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    number = tl.arange(0, BLOCK_HALF)
    inside = number < HALF
    place = keys + cache * cache_stride + token[:, None] * token_stride + number[None, :]
    mask = (token < tokens)[:, None] & inside[None, :]
    real = tl.load(place, mask=mask, other=0.0).to(tl.float32)  # [tokens, half]
    imaginary = tl.load(place + HALF, mask=mask, other=0.0).to(tl.float32)
    length = tl.sqrt(real * real + imaginary * imaginary)
    for member in range(GROUP):
        row = cache * GROUP + member  # sequence, layer, query head
        own = asking + row * HEAD_DIM + number
        a = tl.load(own, mask=inside, other=0.0)
        b = tl.load(own + HALF, mask=inside, other=0.0)
        c = tl.load(
            spread + row % (LAYERS * KV_HEADS * GROUP) * HALF + number, mask=inside, other=0.0
        )
        score = tl.sum(real * a[None, :] + imaginary * b[None, :] + length * c[None, :], 1)
        tl.store(scores + row * tokens + token, score, mask=token < tokens)


def trigonometric_score(
    keys: Tensor,
    next_positions: Tensor,
    query_mean: Tensor,
    query_length: Tensor,
    frequencies: Tensor,
    offsets: tuple[int, ...],
) -> Tensor:
    """See `kernels.trigonometric_score.trigonometric_score`."""
    sequences, layers, kv_heads, tokens, head_dim = keys.shape
    heads = query_mean.shape[1]
    out = torch.empty((sequences, layers, heads, tokens), dtype=torch.float32, device=keys.device)
    if out.numel() == 0:
        return out
    mean = as_complex(query_mean)
    caches = keys.flatten(0, 2)  # a view, as the engine gathers them
    caches = caches if caches.stride(2) == 1 else caches.contiguous()
    options = tile_options(head_dim)
    trigonometric_score_kernel[len(caches), triton.cdiv(tokens, options["BLOCK_TOKENS"])](
        caches,
        turned(mean, next_positions, frequencies, offsets),
        (query_length - mean.abs()).contiguous(),
        out,
        caches.stride(0),
        caches.stride(1),
        tokens,
        LAYERS=layers,
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        **options,
    )
    return out
