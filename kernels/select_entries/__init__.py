"""Which entries of each cache stay: the highest scores, equals decided by age."""

import torch
from torch import Tensor

from kernels.checks import check_tensor
from kernels.impl import Impl, implementation


def select_entries(
    scores: Tensor,
    count: int,
    pinned: Tensor,
    recent: Tensor,
    *,
    impl: Impl | str | None = None,
) -> Tensor:
    """Slots of the `count` entries with the highest scores, ascending; of equals the newer.

    NaN counts as the lowest number, infinities as the largest and lowest, -0 as 0; pinned and
    recent entries come before all scores.

    Args:
        scores: [sequences, layers, kv_heads, tokens] float32.
        count: 0 up to tokens.
        pinned: [sequences] int64, how many of the oldest entries stay whatever their score.
        recent: [sequences] int64, how many of the newest do. The two may overlap; together they are
            at most `count` (checked by the reference only).
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [sequences, layers, kv_heads, count] int64, contiguous.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, device or count does not fit, or `impl` cannot take these tensors.
    """
    layout = "[sequences, layers, kv_heads, tokens]"
    check_tensor("scores", scores, (torch.float32,), layout, (None,) * 4, scores)
    for name, vector in (("pinned", pinned), ("recent", recent)):
        check_tensor(name, vector, (torch.int64,), "[sequences]", (len(scores),), scores)
    if not 0 <= count <= scores.shape[3]:
        raise ValueError(f"count is {count}; allowed: 0 to {scores.shape[3]}, the tokens")
    kept: Tensor = implementation("select_entries", impl, scores)(scores, count, pinned, recent)
    return kept
