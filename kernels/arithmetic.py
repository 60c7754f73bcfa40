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
    """The float32 tile `x` as `dtype`, rounded to nearest even.

    Numbers beyond the largest of fp8e4nv, 448, are the caller's to clamp.
    """
    if INTERPRETED and dtype == tl.float8e4nv:
        return _fp8_code(x).to(dtype, bitcast=True)
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        x = (bits & -0x10000).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def divide(x, divisor):
    """x / divisor in float32, rounded to nearest even; a plain `/` is off by two units on GPUs."""
    return tl.math.div_rn(x.to(tl.float32), divisor)


@triton.jit
def _fp8_code(x):
    """The fp8e4nv codes of float32 numbers within +-448, as uint8; NaN stays NaN."""
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    normal = (size - (120 << 23) + 0x7FFFF + ((size >> 20) & 1)) >> 20
    # below 2 ** -6 codes are multiples of 2 ** -9, which is the last place of 2 ** 14
    tiny = (tl.abs(x) + 16384.0).to(tl.int32, bitcast=True) - (141 << 23)
    code = tl.where(size < (121 << 23), tiny, normal)
    code = tl.where(size > (255 << 23), 0x7F, code)
    return (code | ((bits >> 24) & 0x80)).to(tl.uint8)
