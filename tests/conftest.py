"""What every test needs set before torch, triton or numba is imported, without importing them.

TRITON_INTERPRET is read when a kernel is decorated, thread counts when a library is loaded: both
    must be in the environment before the first import of either, so they are set at the top of the
    first file pytest loads.
"""

import os
from pathlib import Path

import pytest

# the device files of the NVIDIA and AMD drivers; asking torch would import it
GPU = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()

if not GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")
# torch and numba each start a pool of this size; the tests' tensors are too small for more
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("NUMBA_NUM_THREADS", "2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is none."""
    if GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a GPU; none found under /dev"))
