# mypy: disable-error-code="no-untyped-def"
"""silu_mul in numba: a row at a time, in one thread unless there is work for more.

Both variants call one function per row, so a result depends on nothing but its row. `_exp2` is a
copy of that in `kernels.paged_decode.cpu`, since numba's cache is keyed by file.
"""

from math import e, log2

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor

from kernels.addresses import float_row

F = np.float32
BITS = F(log2(e))
WORTH_THREADS = 1 << 17  # numbers; for fewer, waking a second thread costs more than it saves
FAST = {"reassoc", "contract", "nsz", "arcp"}  # NaN passes through as in torch


@njit(fastmath=FAST, nogil=True)
def _exp2(x):
    """2 ** x for x <= 0, relative error 2e-7; branch-free, so that loops around it vectorise."""
    x = max(x, F(-126.0))
    whole = np.int32(x - F(0.5))
    rest = x - F(whole)  # in [-0.5, 0.5]
    power = F(1.5403530e-4)
    power = power * rest + F(1.3333558e-3)
    power = power * rest + F(9.6181291e-3)
    power = power * rest + F(5.5504109e-2)
    power = power * rest + F(2.4022651e-1)
    power = power * rest + F(6.9314718e-1)
    power = power * rest + F(1.0)
    return np.int32(F(power).view(np.int32) + (whole << np.int32(23))).view(np.float32)


@njit(fastmath=FAST, nogil=True, error_model="numpy")
def _row(token, gate_up, stride, out, width):
    gate = float_row(gate_up, token, stride, width)
    up = float_row(gate_up, token, stride, 2 * width)[width:]
    result = float_row(out, token, width, width)
    for i in range(width):
        x = gate[i]
        power = _exp2(-abs(x) * BITS)
        share = (F(1) if x > F(0) else power) / (F(1) + power)
        result[i] = x * share * up[i]


@njit("void(int64, int64, int64, int64, int64)", cache=True, nogil=True)
def _rows(gate_up, stride, out, tokens, width):
    for token in range(tokens):
        _row(token, gate_up, stride, out, width)


@njit(
    "void(int64, int64, int64, int64, int64, int64)",
    parallel=True,
    cache=True,
    nogil=True,
)
def _rows_shared(gate_up, stride, out, tokens, width, workers):
    for worker in prange(workers):
        for token in range(worker * tokens // workers, (worker + 1) * tokens // workers):
            _row(token, gate_up, stride, out, width)


def silu_mul(gate_up: Tensor) -> Tensor:
    """See `kernels.silu_mul.silu_mul`; float32 on the CPU."""
    tokens, double = gate_up.shape
    width = double // 2
    out = gate_up.new_empty((tokens, width))
    arguments = (gate_up.data_ptr(), gate_up.stride(0), out.data_ptr(), tokens, width)
    if tokens * width < WORTH_THREADS:
        _rows(*arguments)
    else:
        _rows_shared(*arguments, get_num_threads())
    return out
