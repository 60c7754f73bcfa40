# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""rms_norm in Triton: one program per token, its row in registers."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.arithmetic import narrow


@triton.jit
def rms_norm_kernel(
    hidden,
    weight,
    residual,
    out,
    hidden_stride,
    residual_stride,
    eps,
    WIDTH: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_WIDTH)
    mask = column < WIDTH
    dtype: tl.constexpr = out.dtype.element_ty
    x = tl.load(hidden + token * hidden_stride + column, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        place = residual + token * residual_stride + column
        total = narrow(x + tl.load(place, mask=mask, other=0.0).to(tl.float32), dtype)
        tl.store(place, total, mask=mask)
        x = total.to(tl.float32)
    normal = narrow(x * tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps), dtype).to(tl.float32)
    scaled = normal * tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + token * WIDTH + column, narrow(scaled, dtype), mask=mask)


def tile_options(width: int) -> dict[str, int]:
    """The tile that holds a row, 16 numbers per lane of 32 at most."""
    block = triton.next_power_of_2(width)
    return {"BLOCK_WIDTH": block, "num_warps": min(max(block // 512, 1), 16)}


def rms_norm(hidden: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> Tensor:
    """See `kernels.rms_norm.rms_norm`."""
    tokens, width = hidden.shape
    out = hidden.new_empty((tokens, width))
    if tokens:
        added = out if residual is None else residual
        rms_norm_kernel[(tokens,)](
            hidden,
            weight,
            added,
            out,
            hidden.stride(0),
            added.stride(0),
            eps,
            WIDTH=width,
            HAS_RESIDUAL=residual is not None,
            **tile_options(width),
        )
    return out
