"""Which implementation of an operation runs: Triton on GPUs, numba on CPUs, the torch reference
anywhere.

Triton and numba are imported only when they are chosen, so the package imports where either is
missing. An implementation asked for by name runs or raises; it never falls back to another one.
"""

import os
from collections.abc import Callable
from enum import StrEnum
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch


class Impl(StrEnum):
    """How an operation is computed; the value is its name in settings and on the command line."""

    TRITON = "triton"
    NUMBA = "numba"
    REFERENCE = "reference"


NUMBA_DTYPES = (torch.float32, torch.float8_e4m3fn)  # the latter of pools only
MODULES = {Impl.TRITON: "kernel", Impl.NUMBA: "cpu", Impl.REFERENCE: "reference"}


def resolve(impl: Impl | str | None, tensor: torch.Tensor) -> Impl:
    """The implementation for inputs like `tensor`.

    None chooses: CUDA (and ROCm) tensors Triton, float32 on the CPU numba (and pools of
        float8_e4m3fn there), the reference otherwise or where the package needed is not installed.
        A name is obeyed.

    Raises:
        ValueError: the name is unknown, or that implementation cannot take such a tensor.
        ImportError: the package it needs is not installed.
    """
    if impl is None:
        return _choose(tensor)
    try:
        chosen = Impl(impl)
    except ValueError:
        names = ", ".join(Impl)
        raise ValueError(
            f"impl is {impl!r}; allowed: {names}, or None to choose by device"
        ) from None
    if chosen is not Impl.REFERENCE:
        _check_supported(chosen, tensor)
    return chosen


def implementation(
    operation: str, impl: Impl | str | None, tensor: torch.Tensor
) -> Callable[..., Any]:
    """The function that computes `operation` (a folder of this package) on inputs like `tensor`."""
    return _load(operation, resolve(impl, tensor))


def set_cpu_threads(count: int) -> None:
    """Lets the numba kernels called from this thread use `count` threads; does nothing without
    numba.

    numba's thread pool is separate from torch's. With the OpenMP layer (numba's choice where the
    system has libgomp) and equal counts for both, calls that alternate between the two cost what
    each costs alone; without libgomp numba falls back to its `workqueue` layer, which is slower and
    must not be entered by two threads at once. Forking after the first call is not safe: spawn the
    engine process.

    Args:
        count: 1 up to the pool's size, which is NUMBA_NUM_THREADS at start-up or else the number of
            cores.

    Raises:
        ValueError: the count is outside that range.
    """
    if not _installed("numba"):
        return
    numba = import_module("numba")
    most = numba.config.NUMBA_NUM_THREADS
    if not 1 <= count <= most:
        raise ValueError(
            f"numba was asked for {count} threads; allowed: 1 to {most} (NUMBA_NUM_THREADS)"
        )
    numba.set_num_threads(count)


def _choose(tensor: torch.Tensor) -> Impl:
    if tensor.is_cuda:
        return Impl.TRITON if _installed("triton") else Impl.REFERENCE
    if tensor.is_cpu and tensor.dtype in NUMBA_DTYPES and _installed("numba"):
        return Impl.NUMBA
    return Impl.REFERENCE


def _check_supported(chosen: Impl, tensor: torch.Tensor) -> None:
    received = f"got {tensor.dtype} on {tensor.device}"
    if not _installed(chosen.value):
        raise ImportError(f"impl {chosen.value!r} needs the package {chosen.value}; install it")
    if chosen is Impl.NUMBA and not (tensor.is_cpu and tensor.dtype in NUMBA_DTYPES):
        raise ValueError(
            f"impl 'numba' takes float32 on the CPU, {received}; use impl=None or 'reference'"
        )
    if chosen is Impl.TRITON and not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"impl 'triton' takes tensors on a GPU, {received}; use impl=None, or set "
            "TRITON_INTERPRET=1 before the first import to run the interpreter"
        )


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


@cache
def _load(operation: str, impl: Impl) -> Callable[..., Any]:
    module = import_module(f"kernels.{operation}.{MODULES[impl]}")
    function: Callable[..., Any] = getattr(module, operation)
    return function
