"""Which implementations a test runs, on which device, and how far off they may be."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.impl import NUMBA_DTYPES, Impl
from tests.conftest import GPU

IMPLS = (
    Impl.REFERENCE,
    Impl.NUMBA,
    pytest.param(Impl.TRITON, marks=pytest.mark.gpu) if GPU else Impl.TRITON,
)
# what float32 arithmetic may be off by when the reference happens to be exact
FLOOR = 1e-6


def device(impl: Impl) -> str:
    """Triton runs on a GPU where there is one, else in its interpreter on the CPU."""
    return "cuda" if GPU and impl is Impl.TRITON else "cpu"


def skip_unsupported(impl: Impl, dtype: torch.dtype) -> None:
    """Skips the pairs that `kernels.impl` refuses."""
    if impl is Impl.NUMBA and dtype not in NUMBA_DTYPES:
        pytest.skip(f"numba takes float32, the case is {dtype}")


def assert_close(actual: Tensor, exact: Tensor, reference: Tensor) -> None:
    """Off by at most twice what the reference is off by in the same precision."""
    assert actual.shape == exact.shape
    assert not actual.isnan().any(), "something read a poisoned slot"
    error = (actual.cpu().double() - exact).abs().max().item() if actual.numel() else 0.0
    yardstick = (reference.double() - exact).abs().max().item() if actual.numel() else 0.0
    assert error <= 2 * yardstick + FLOOR, f"error {error:.2e}, the reference's {yardstick:.2e}"


def moved_to(inputs: dict[str, Any], where: str) -> dict[str, Any]:
    """A deep copy of the arguments on a device."""
    return {
        name: value.to(where, copy=True) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
