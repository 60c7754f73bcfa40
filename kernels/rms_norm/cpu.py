# mypy: disable-error-code="no-untyped-def"
"""rms_norm in numba: a row at a time, in one thread unless there is work for more.

Both variants call one function per row, so a result depends on nothing but its row.
"""

from math import sqrt

import numpy as np
from numba import get_num_threads, njit, prange
from torch import Tensor

from kernels.addresses import float_row, floats

F = np.float32
WORTH_THREADS = 1 << 18  # numbers; for fewer, waking a second thread costs more than it saves
FAST = {"reassoc", "contract", "nsz"}  # NaN and infinity pass through as in torch


@njit(fastmath=FAST, nogil=True, error_model="numpy")
def _norm(row, weight, eps, out):
    total = F(0)
    for i in range(row.size):
        total += row[i] * row[i]
    scale = F(1) / F(sqrt(total / F(row.size) + eps))
    for i in range(row.size):
        out[i] = weight[i] * (row[i] * scale)


@njit(fastmath=FAST, nogil=True)
def _add(row, total):
    for i in range(row.size):
        total[i] += row[i]


@njit(fastmath=FAST, nogil=True)
def _row(token, hidden, hidden_stride, weight, eps, residual, residual_stride, out, width):
    row = float_row(hidden, token, hidden_stride, width)
    if residual:
        total = float_row(residual, token, residual_stride, width)
        _add(row, total)
        row = total
    _norm(row, floats(weight, width), eps, float_row(out, token, width, width))


# addresses of hidden, weight, residual (0: none) and out among them
SIGNATURE = "void(int64, int64, int64, float32, int64, int64, int64, int64, int64)"


@njit(SIGNATURE, cache=True, nogil=True)
def _rows(hidden, hidden_stride, weight, eps, residual, residual_stride, out, tokens, width):
    for token in range(tokens):
        _row(token, hidden, hidden_stride, weight, eps, residual, residual_stride, out, width)


@njit(SIGNATURE[:-1] + ", int64)", parallel=True, cache=True, nogil=True)
def _rows_shared(
    hidden, hidden_stride, weight, eps, residual, residual_stride, out, tokens, width, workers
):
    for worker in prange(workers):
        for token in range(worker * tokens // workers, (worker + 1) * tokens // workers):
            _row(token, hidden, hidden_stride, weight, eps, residual, residual_stride, out, width)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> Tensor:
    """See `kernels.rms_norm.rms_norm`; float32 on the CPU."""
    tokens, width = hidden.shape
    out = hidden.new_empty((tokens, width))
    added, stride = (0, 0) if residual is None else (residual.data_ptr(), residual.stride(0))
    inputs = (hidden.data_ptr(), hidden.stride(0), weight.data_ptr(), eps, added, stride)
    arguments = (*inputs, out.data_ptr(), tokens, width)
    if tokens * width < WORTH_THREADS:
        _rows(*arguments)
    else:
        _rows_shared(*arguments, get_num_threads())
    return out
