"""Moves a step's small arrays to the device: in one copy, however many there are."""

from collections.abc import Mapping

import numpy as np
import torch

ALIGNMENT = 16  # bytes; views of any type start on it


def move(
    arrays: Mapping[str, np.ndarray], device: torch.device, into: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """The arrays as tensors on the device, by name; on a CPU they share the arrays' memory.

    Args:
        arrays: contiguous.
        device: where to.
        into: uint8, at least `size_of(arrays)` bytes, on the device: the tensors are views of it.
            Arrays of equal names, shapes and types always come to the same places.
    """
    if device.type == "cpu" and into is None:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    size = size_of(arrays)
    host = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    packed, places, start = host.numpy(), {}, 0
    for name, array in arrays.items():
        packed[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        places[name] = (start, start + array.nbytes)
        start += _aligned(array.nbytes)
    if into is None:
        target = host.to(device, non_blocking=True)
    else:
        target = into[:size].copy_(host, non_blocking=True)
    return {
        name: target[slice(*places[name])].view(_TYPES[array.dtype]).view(array.shape)
        for name, array in arrays.items()
    }


def size_of(arrays: Mapping[str, np.ndarray]) -> int:
    """Bytes that `move` needs for them."""
    return sum(_aligned(array.nbytes) for array in arrays.values())


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


_TYPES = {
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.float32): torch.float32,
}
