"""Times of functions on a device, and the memory bandwidth they are held against."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

COPIED = {"cuda": 4 << 30, "cpu": 128 << 20}  # bytes of the buffer that is copied
FLUSHED = 1 << 30  # bytes read before each timed call, several times any L2 cache
GPU_REPEATS = 30
FEWEST, MOST = 3, 1000  # timed calls on a CPU


def pick(name: str) -> torch.device:
    """The device of that name; "auto": cuda where present, else cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def label(device: torch.device) -> str:
    """What rows call the device: the GPU's name, or "cpu" (rows name the processor themselves)."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def finish(device: torch.device) -> None:
    """Waits for what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    """Hands freed memory back, so that the next measurement can have all of it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, that a copy of a large buffer moves."""
    size = COPIED[device.type]
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * size / median_seconds(lambda: target.copy_(source), device, 0.5)


def median_seconds(function: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """The median time of one call, after one that is not counted.

    On a GPU by events around each of GPU_REPEATS calls. The buffer that is read in between
    displaces what the last call left in the L2 cache, and keeps the GPU busy while the call is
    launched, so that a launch shows only where it takes longer than that. On a CPU by wall clock,
    for about `seconds`, caches as the last call left them.
    """
    function()
    if device.type == "cuda":
        return _median_of_events(function, device)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < FEWEST or (time.perf_counter() < end and len(taken) < MOST):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _median_of_events(function: Callable[[], Any], device: torch.device) -> float:
    flushed = torch.ones(FLUSHED // 4, dtype=torch.float32, device=device)
    pairs = []
    for _ in range(GPU_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flushed.sum()
        start.record()
        function()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in pairs) / 1000
