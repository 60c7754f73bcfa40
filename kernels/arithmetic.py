# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Matrix products and roundings of the Triton kernels, alike in compiled code and under Triton's
interpreter.

The interpreter (3.6 to 3.9) multiplies the bit patterns of bfloat16 numbers, and truncates where
hardware rounds.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def dot(a, b, total):
    """total + a @ b, added up in float32; float32 inputs are multiplied as float32, not as TF32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """The float32 tile `x` as `dtype`, rounded to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        x = (bits & -0x10000).to(tl.float32, bitcast=True)
    return x.to(dtype)
