"""Root-mean-square normalisation, with the residual sum before it if there is one."""

from torch import Tensor

from kernels.checks import FLOATS, check_adjacent
from kernels.impl import Impl, implementation

MAX_WIDTH = 8192  # what one Triton program holds in registers


def rms_norm(
    hidden: Tensor,
    weight: Tensor,
    eps: float,
    *,
    residual: Tensor | None = None,
    impl: Impl | str | None = None,
) -> Tensor:
    """weight * x / sqrt(mean(x²) + eps) of every row x, as LlamaRMSNorm of transformers rounds it:
    the arithmetic is float32, x / sqrt(..) is rounded to the dtype, then multiplied by `weight`.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization (2019).

    Args:
        hidden: [tokens, width], float32, bfloat16 or float16; width 1 to 8192, last stride 1. Not
            changed.
        weight: [width], hidden's dtype.
        eps: added to the mean of squares.
        residual: [tokens, width], hidden's dtype, last stride 1, no memory shared with hidden;
            hidden is added to it in place, and x is a row of the sum. None: a row of hidden.
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [tokens, width], hidden's dtype, contiguous.

    Raises:
        TypeError: a dtype is not the one above.
        ValueError: a shape, layout or device does not fit, or `impl` cannot take these tensors.
    """
    shape, dtype = hidden.shape, hidden.dtype
    if dtype not in FLOATS:
        raise TypeError(f"hidden is {dtype}; allowed: float32, bfloat16, float16")
    if len(shape) != 2 or not 1 <= shape[1] <= MAX_WIDTH:
        raise ValueError(
            f"hidden has shape {tuple(shape)}; expected [tokens, width], width 1 to {MAX_WIDTH}"
        )
    check_adjacent("hidden", hidden, shape, dtype, hidden)
    check_adjacent("weight", weight, shape[1:], dtype, hidden)
    if residual is not None:
        check_adjacent("residual", residual, shape, dtype, hidden)
    result: Tensor = implementation("rms_norm", impl, hidden)(hidden, weight, eps, residual)
    return result
