# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""window_attention in Triton: two passes over the keys, so that no probability is ever stored.

The first pass leaves the largest logit and the sum of every query's softmax; the second computes
the logits again and adds up, or takes the largest of, the probabilities of one tile of tokens.
Neither adds atomically, so results repeat. Query heads of a group are gone through one by one: a
tile is queries by tokens of one head.
"""

from functools import cache
from math import e, log2

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arithmetic import dot
from kernels.families import Family, family


@cache
def tile_options(head_dim: int, itemsize: int, family: Family) -> dict[str, int]:
    """Tile sizes and launch options; float32 is multiplied from registers, hence small tiles."""
    cdna = family is Family.CDNA
    tokens = 32 if cdna else 64
    return {
        "BLOCK_QUERIES": 16,  # the least a tensor core takes
        "BLOCK_DIM": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_TOKENS": 16 if itemsize == 4 else tokens,
        "num_warps": 4 if cdna else 2,  # what does not spill
        "num_stages": 2,
    }


# these are slices of larger buffers at times: their alignment must not choose another binary
SLICES = ["queries", "query_positions", "keys", "positions"]
SIZES = ["recent", "tokens"]


@triton.jit
def seen_logits(
    queries,  # of the KV head's first query head
    head_stride,
    query_stride,
    query,
    recent,
    asked_at,  # [queries]
    key,
    position,  # [tokens], beyond any query's where there is no token
    scale,
    MEMBERS: tl.constexpr,  # query heads whose largest logit counts
    HEAD_DIM: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Base-2 logits [queries, tokens], -inf where a query does not see the token."""
    dim = tl.arange(0, BLOCK_DIM)
    place = query[:, None] * query_stride + dim[None, :]
    mask = (query < recent)[:, None] & (dim < HEAD_DIM)[None, :]
    zeros = tl.zeros([BLOCK_QUERIES, BLOCK_TOKENS], tl.float32)
    logits = tl.full([BLOCK_QUERIES, BLOCK_TOKENS], float("-inf"), tl.float32)
    for member in range(MEMBERS):
        asking = tl.load(queries + member * head_stride + place, mask=mask, other=0.0)
        logits = tl.maximum(logits, dot(asking, tl.trans(key), zeros) * scale)
    return tl.where(position[None, :] <= asked_at[:, None], logits, float("-inf"))


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=SLICES)
def window_statistics_kernel(
    queries,
    query_positions,
    keys,
    positions,
    largest,  # [caches, rows, recent] float32; rows: the group's heads, or 1
    share,  # as largest: 1 / sum, or 0 for a query that sees nothing
    queries_sequence_stride,
    queries_layer_stride,
    queries_head_stride,
    query_stride,
    query_positions_stride,
    keys_cache_stride,
    key_stride,
    positions_stride,
    recent,
    tokens,
    scale,  # times log2(e)
    LAYERS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    STRONGEST: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    cache = tl.program_id(0).to(tl.int64)
    row = tl.program_id(2)
    sequence, layer = cache // (LAYERS * KV_HEADS), cache // KV_HEADS % LAYERS
    head = cache % KV_HEADS * GROUP + row
    queries += sequence * queries_sequence_stride + layer * queries_layer_stride
    queries += head * queries_head_stride
    keys += cache * keys_cache_stride
    positions += cache * positions_stride
    query = tl.program_id(1) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    asked_at = tl.load(
        query_positions + sequence * query_positions_stride + query, mask=query < recent, other=-1
    )
    maximum = tl.full([BLOCK_QUERIES], -1e30, tl.float32)
    total = tl.zeros([BLOCK_QUERIES], tl.float32)
    dim = tl.arange(0, BLOCK_DIM)
    for start in range(0, tokens, BLOCK_TOKENS):
        token = start + tl.arange(0, BLOCK_TOKENS)
        key = tl.load(
            keys + token[:, None] * key_stride + dim[None, :],
            mask=(token < tokens)[:, None] & (dim < HEAD_DIM)[None, :],
            other=0.0,
        )
        position = tl.load(positions + token, mask=token < tokens, other=0x7FFFFFFF)
        logits = seen_logits(
            queries,
            queries_head_stride,
            query_stride,
            query,
            recent,
            asked_at,
            key,
            position,
            scale,
            GROUP if STRONGEST else 1,
            HEAD_DIM,
            BLOCK_QUERIES,
            BLOCK_DIM,
            BLOCK_TOKENS,
        )
        new_maximum = tl.maximum(maximum, tl.max(logits, 1))
        weights = tl.exp2(logits - new_maximum[:, None])
        total = total * tl.exp2(maximum - new_maximum) + tl.sum(weights, 1)
        maximum = new_maximum
    place = (cache * tl.num_programs(2) + row) * recent + query
    tl.store(largest + place, maximum, mask=query < recent)
    inverse = tl.where(total > 0, 1 / tl.where(total > 0, total, 1.0), 0.0)
    tl.store(share + place, inverse, mask=query < recent)


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=SLICES)
def window_reduce_kernel(
    queries,
    query_positions,
    keys,
    positions,
    largest,
    share,
    scores,  # [caches, tokens] float32
    queries_sequence_stride,
    queries_layer_stride,
    queries_head_stride,
    query_stride,
    query_positions_stride,
    keys_cache_stride,
    key_stride,
    positions_stride,
    recent,
    tokens,
    scale,  # times log2(e)
    LAYERS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    STRONGEST: tl.constexpr,
    LARGEST: tl.constexpr,  # over queries; else their sum, or their mean
    MEAN: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    ROWS: tl.constexpr = 1 if STRONGEST else GROUP
    cache = tl.program_id(0).to(tl.int64)
    sequence, layer = cache // (LAYERS * KV_HEADS), cache // KV_HEADS % LAYERS
    queries += sequence * queries_sequence_stride + layer * queries_layer_stride
    queries += cache % KV_HEADS * GROUP * queries_head_stride
    query_positions += sequence * query_positions_stride
    token = tl.program_id(1) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    dim = tl.arange(0, BLOCK_DIM)
    key = tl.load(
        keys + cache * keys_cache_stride + token[:, None] * key_stride + dim[None, :],
        mask=(token < tokens)[:, None] & (dim < HEAD_DIM)[None, :],
        other=0.0,
    )
    position = tl.load(
        positions + cache * positions_stride + token, mask=token < tokens, other=0x7FFFFFFF
    )
    result = tl.zeros([BLOCK_TOKENS], tl.float32)
    present = 0
    for first in range(0, recent, BLOCK_QUERIES):
        query = first + tl.arange(0, BLOCK_QUERIES)
        asked_at = tl.load(query_positions + query, mask=query < recent, other=-1)
        present += tl.sum((asked_at >= 0).to(tl.int32), 0)
        attention = tl.zeros([BLOCK_QUERIES, BLOCK_TOKENS], tl.float32)
        for row in range(ROWS):
            logits = seen_logits(
                queries + row * queries_head_stride,
                queries_head_stride,
                query_stride,
                query,
                recent,
                asked_at,
                key,
                position,
                scale,
                GROUP if STRONGEST else 1,
                HEAD_DIM,
                BLOCK_QUERIES,
                BLOCK_DIM,
                BLOCK_TOKENS,
            )
            place = (cache * ROWS + row) * recent + query
            maximum = tl.load(largest + place, mask=query < recent, other=0.0)
            inverse = tl.load(share + place, mask=query < recent, other=0.0) / ROWS
            attention += tl.exp2(logits - maximum[:, None]) * inverse[:, None]
        if LARGEST:
            result = tl.maximum(result, tl.max(attention, 0))
        else:
            result += tl.sum(attention, 0)
    if MEAN:
        result = result / tl.maximum(present, 1).to(tl.float32)
    tl.store(scores + cache * tokens + token, result, mask=token < tokens)


def window_attention(
    queries: Tensor,
    query_positions: Tensor,
    keys: Tensor,
    positions: Tensor,
    scale: float,
    over_queries: str,
    over_heads: str,
) -> Tensor:
    """See `kernels.window_attention.window_attention`."""
    sequences, layers, kv_heads, tokens, head_dim = keys.shape
    group, recent = queries.shape[2] // kv_heads, queries.shape[3]
    out = torch.zeros(keys.shape[:4], dtype=torch.float32, device=keys.device)
    if recent == 0 or sequences == 0:
        return out
    queries = queries if queries.stride(4) == 1 else queries.contiguous()
    query_positions = query_positions.contiguous()
    caches = keys.flatten(0, 2)  # views, as the engine gathers them
    caches = caches if caches.stride(2) == 1 else caches.contiguous()
    slots = positions.flatten(0, 2)
    slots = slots if slots.stride(1) == 1 else slots.contiguous()
    rows = 1 if over_heads == "strongest" else group
    largest = torch.empty((len(caches), rows, recent), dtype=torch.float32, device=keys.device)
    share = torch.empty_like(largest)
    options = tile_options(head_dim, keys.element_size(), family())
    inputs = (queries, query_positions, caches, slots, largest, share)
    sizes = (
        *queries.stride()[:4],
        query_positions.stride(0),
        *caches.stride()[:2],
        slots.stride(0),
        recent,
        tokens,
        scale * log2(e),
    )
    shape = {
        "LAYERS": layers,
        "KV_HEADS": kv_heads,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "STRONGEST": over_heads == "strongest",
    }
    window_statistics_kernel[len(caches), triton.cdiv(recent, options["BLOCK_QUERIES"]), rows](
        *inputs, *sizes, **shape, **options
    )
    window_reduce_kernel[len(caches), triton.cdiv(tokens, options["BLOCK_TOKENS"])](
        *inputs,
        out,
        *sizes,
        **shape,
        LARGEST=over_queries == "max",
        MEAN=over_queries == "mean",
        **options,
    )
    return out
