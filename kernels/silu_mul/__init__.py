"""The gated activation between the two matrix products of a feed-forward layer."""

from torch import Tensor

from kernels.checks import FLOATS, check_adjacent
from kernels.impl import Impl, implementation


def silu_mul(gate_up: Tensor, *, impl: Impl | str | None = None) -> Tensor:
    """silu(gate) * up, where silu(x) = x / (1 + exp(-x)) is rounded to the dtype before the
    product, as torch does.

    Source: Shazeer, GLU Variants Improve Transformer (2020).

    Args:
        gate_up: [tokens, 2 * width], float32, bfloat16 or float16, last stride 1: gate in the first
            half of a row, up in the second.
        impl: None chooses by device; see `kernels.impl`.

    Returns:
        [tokens, width], gate_up's dtype, contiguous.

    Raises:
        TypeError: gate_up has another dtype.
        ValueError: gate_up has another shape or layout, or `impl` cannot take it.
    """
    shape, dtype = gate_up.shape, gate_up.dtype
    if dtype not in FLOATS:
        raise TypeError(f"gate_up is {dtype}; allowed: float32, bfloat16, float16")
    if len(shape) != 2 or shape[1] % 2 or not shape[1]:
        raise ValueError(
            f"gate_up has shape {tuple(shape)}; expected [tokens, 2 * width], width 1 or more"
        )
    check_adjacent("gate_up", gate_up, shape, dtype, gate_up)
    result: Tensor = implementation("silu_mul", impl, gate_up)(gate_up)
    return result
