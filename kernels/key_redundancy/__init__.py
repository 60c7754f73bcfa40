"""How much of each key the other keys of its cache repeat."""

from torch import Tensor

from kernels.checks import FLOATS, check_tensor
from kernels.impl import Impl, implementation


def key_redundancy(
    keys: Tensor, *, excused_above: float | None = None, impl: Impl | str | None = None
) -> Tensor:
    """The largest cosine of each key to a newer one, or its mean cosine to all as R-KV has it.

    The mean (Cai et al. 2025, arXiv 2505.24133) is over the whole cache, a key's cosine to itself
    counting as 0. Every key excuses one other: of those with a cosine above `excused_above` to it,
    the newest. The cosine of that pair counts as 0 in the excused key's mean.

    Args:
        keys: [caches, tokens, head_dim], oldest first, float32, bfloat16 or float16. A zero
            key has cosine 0 to all; lengths below 1e-12 count as 1e-12.
        excused_above: None for the largest cosine to a newer key; a number, not negative, for the
            mean.
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [caches, tokens] float32, contiguous. The largest cosine is at least 0, so that of the
        newest key is 0, and at most 1.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape or number does not fit, or `impl` cannot take this tensor.
    """
    check_tensor("keys", keys, FLOATS, "[caches, tokens, head_dim]", (None, None, None), keys)
    if 0 in keys.shape[1:]:
        raise ValueError(f"keys have shape {tuple(keys.shape)}; tokens and head_dim may not be 0")
    if excused_above is not None and not excused_above >= 0:
        raise ValueError(f"excused_above is {excused_above}; allowed: 0 or more, or None")
    redundancy: Tensor = implementation("key_redundancy", impl, keys)(keys, excused_above)
    return redundancy
