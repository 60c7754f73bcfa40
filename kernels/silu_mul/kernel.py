# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""silu_mul in Triton: a program computes a piece of one token's row."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.arithmetic import narrow

PIECE = 2048


@triton.jit
def silu_mul_kernel(
    gate_up,
    out,
    gate_stride,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    mask = column < WIDTH
    dtype: tl.constexpr = out.dtype.element_ty
    row = gate_up + token * gate_stride + column
    gate = tl.load(row, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(row + WIDTH, mask=mask, other=0.0).to(tl.float32)
    power = tl.exp(-tl.abs(gate))  # at most 1: no overflow
    share = tl.where(gate > 0.0, 1.0, power) / (1.0 + power)
    silu = narrow(gate * share, dtype).to(tl.float32)
    tl.store(out + token * WIDTH + column, narrow(silu * up, dtype), mask=mask)


def tile_options(width: int) -> dict[str, int]:
    """The piece of a row that a program computes, 16 numbers per lane of 32 at most."""
    block = min(triton.next_power_of_2(width), PIECE)
    return {"BLOCK_WIDTH": block, "num_warps": max(block // 512, 1)}


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `kernels.silu_mul.silu_mul`."""
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((tokens, width))
    options = tile_options(width)
    if tokens:
        grid = (tokens, triton.cdiv(width, options["BLOCK_WIDTH"]))
        silu_mul_kernel[grid](gate_up, out, gate_up.stride(0), WIDTH=width, **options)
    return out
