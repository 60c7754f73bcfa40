"""What calibrated queries would attend to from positions to come, from rotated keys alone."""

import torch
from torch import Tensor

from kernels.checks import FLOATS, INTS, check_tensor
from kernels.impl import Impl, implementation

OFFSETS = tuple(1 << power for power in range(17))  # positions ahead: 1 ... 65536


def trigonometric_score(
    keys: Tensor,
    next_positions: Tensor,
    query_mean: Tensor,
    query_length: Tensor,
    frequencies: Tensor,
    *,
    impl: Impl | str | None = None,
) -> Tensor:
    """TriAttention's score of each entry, for each query head (arXiv 2604.04921).

    With vectors as complex numbers, c_f a head's mean query and a_f its mean length, k_f a key
    before its rotation, p its position, t the next one and w_f the frequencies:
        s = mean over D in OFFSETS of sum_f |c_f||k_f| cos(w_f (t - p + D) + arg(c_f conj(k_f)))
            + sum_f (a_f - |c_f|) |k_f|
    A cached key is k_f e(w_f p), e(x) = exp(i x), so the first line is the dot product of the
    cached key with the vector c_f e(w_f t) mean_D e(w_f D): positions of keys are not needed.
    Phases are computed in float64.

    Args:
        keys: [sequences, layers, kv_heads, tokens, head_dim] float32, bfloat16 or float16, rotary
            applied: numbers f are the halves (f, f + head_dim / 2).
        next_positions: [sequences] int32 or int64, not negative.
        query_mean: [layers, heads, head_dim] float32, mean query before its rotation, halves as in
            keys; heads = group * kv_heads, query head h reads KV head h // group.
        query_length: [layers, heads, head_dim / 2] float32, mean of |q_f|.
        frequencies: [layers, head_dim / 2] float64, radians per position.
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [sequences, layers, heads, tokens] float32, contiguous.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape or device does not fit, or `impl` cannot take these tensors.
    """
    _check(keys, next_positions, query_mean, query_length, frequencies)
    score = implementation("trigonometric_score", impl, keys)
    result: Tensor = score(keys, next_positions, query_mean, query_length, frequencies, OFFSETS)
    return result


def _check(
    keys: Tensor,
    next_positions: Tensor,
    query_mean: Tensor,
    query_length: Tensor,
    frequencies: Tensor,
) -> None:
    """Raises unless these are what `trigonometric_score` takes."""
    layout = "[sequences, layers, kv_heads, tokens, head_dim]"
    check_tensor("keys", keys, FLOATS, layout, (None,) * 5, keys)
    sequences, layers, kv_heads, _, head_dim = keys.shape
    float32 = (torch.float32,)
    check_tensor("next_positions", next_positions, INTS, "[sequences]", (sequences,), keys)
    sizes = (layers, None, head_dim)
    check_tensor("query_mean", query_mean, float32, "[layers, heads, head_dim]", sizes, keys)
    heads = query_mean.shape[1]
    if 0 in keys.shape[2:] or head_dim % 2 or heads == 0 or heads % kv_heads:
        raise ValueError(
            f"query_mean has {heads} heads, keys shape {tuple(keys.shape)}; expected a positive "
            "multiple of kv_heads, at least one token, and an even head_dim"
        )
    halves = head_dim // 2
    check_tensor(
        "query_length",
        query_length,
        float32,
        "[layers, heads, head_dim / 2]",
        (layers, heads, halves),
        keys,
    )
    check_tensor(
        "frequencies",
        frequencies,
        (torch.float64,),
        "[layers, head_dim / 2]",
        (layers, halves),
        keys,
    )
