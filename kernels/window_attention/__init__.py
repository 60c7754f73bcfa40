"""What the newest queries attend to, as one number per cache entry."""

from typing import Literal, get_args

import torch
from torch import Tensor

from kernels.checks import FLOATS, check_tensor
from kernels.impl import Impl, implementation

OverQueries = Literal["mean", "max", "sum"]
OverHeads = Literal["mean", "strongest"]


def window_attention(
    queries: Tensor,
    query_positions: Tensor,
    keys: Tensor,
    positions: Tensor,
    *,
    scale: float,
    over_queries: OverQueries,
    over_heads: OverHeads,
    impl: Impl | str | None = None,
) -> Tensor:
    """Softmax attention of some queries over each cache, reduced over heads, then over queries.

    A query sees the keys whose position is not above its own. One that is missing, or sees no key,
    attends to nothing. To leave queries out, hand in fewer, or give them negative positions: with
    exactly the newest queries left and "sum", the result is the attention mass that they add.

    Args:
        queries: [sequences, layers, heads, recent, head_dim], the keys' dtype, rotary applied;
            heads = group * kv_heads, query head h reads KV head h // group. What missing queries
            hold is not used.
        query_positions: [sequences, recent] int32; negative: there is no such query.
        keys: [sequences, layers, kv_heads, tokens, head_dim] float32, bfloat16 or float16. What
            keys hold that no query sees is not used.
        positions: [sequences, layers, kv_heads, tokens] int32, not negative, ascending strictly
            (order is checked by the reference only).
        scale: multiplies the dot products, usually head_dim ** -0.5.
        over_queries: "mean" over the queries that exist, their "max", or their "sum".
        over_heads: of the query heads that read one KV head: "mean", that of their probabilities;
            "strongest", one softmax over each entry's largest logit among them.
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [sequences, layers, kv_heads, tokens] float32, contiguous; zeros where no query exists.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, device or reduction does not fit, or `impl` cannot take these tensors.
    """
    _check(queries, query_positions, keys, positions)
    if over_queries not in get_args(OverQueries) or over_heads not in get_args(OverHeads):
        raise ValueError(
            f"over_queries is {over_queries!r}, over_heads {over_heads!r}; allowed: "
            f"{get_args(OverQueries)} and {get_args(OverHeads)}"
        )
    attend = implementation("window_attention", impl, keys)
    result: Tensor = attend(
        queries, query_positions, keys, positions, scale, over_queries, over_heads
    )
    return result


def _check(queries: Tensor, query_positions: Tensor, keys: Tensor, positions: Tensor) -> None:
    """Raises unless these are what `window_attention` takes."""
    layout = "[sequences, layers, kv_heads, tokens, head_dim]"
    check_tensor("keys", keys, FLOATS, layout, (None,) * 5, keys)
    sequences, layers, kv_heads, _, head_dim = keys.shape
    recent = query_positions.shape[-1]
    check_tensor(
        "queries",
        queries,
        (keys.dtype,),
        "[sequences, layers, heads, recent, head_dim]",
        (sequences, layers, None, recent, head_dim),
        keys,
    )
    if 0 in keys.shape[2:] or queries.shape[2] == 0 or queries.shape[2] % kv_heads:
        raise ValueError(
            f"queries have {queries.shape[2]} heads, keys shape {tuple(keys.shape)}; expected "
            "at least one token and a positive multiple of kv_heads"
        )
    int32 = (torch.int32,)
    check_tensor(
        "query_positions", query_positions, int32, "[sequences, recent]", (sequences, recent), keys
    )
    slots = "[sequences, layers, kv_heads, tokens]"
    check_tensor("positions", positions, int32, slots, keys.shape[:4], keys)
