"""Tiles: 16 slots at once, against numpy."""

import numpy as np
import pytest
from numba import njit

from kernels import tiles

ADDERS = {
    (2, 2): tiles.add_pair_32,
    (2, 1): tiles.add_pair_16,
    (1, 2): tiles.add_32,
    (1, 1): tiles.add_16,
}


@njit
def dots(query, tile, last, head_dim, target):  # type: ignore[no-untyped-def]
    tiles.dots(query, tile, last, head_dim, target)


def whole(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Small whole numbers, so that sums are exact in any order."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


@pytest.mark.parametrize("head_dim", [16, 32, 80, 128])
@pytest.mark.parametrize("slots", [1, 7, 16])
def test_dots_come_in_order_and_read_no_slot_past_the_last(head_dim: int, slots: int) -> None:
    query, tile = whole((head_dim,), 0), whole((16, head_dim), 1)
    tile[slots:] = np.nan
    target = np.full(16, np.nan, np.float32)
    dots(query.ctypes.data, tile.ctypes.data, slots - 1, head_dim, target.ctypes.data)
    expected = tile[np.minimum(np.arange(16), slots - 1)] @ query
    assert target.tolist() == expected.tolist()


@pytest.mark.parametrize(("members", "vectors"), ADDERS)
@pytest.mark.parametrize("slots", [1, 2, 7, 16])
def test_weighted_slots_are_added(members: int, vectors: int, slots: int) -> None:
    add, width = ADDERS[members, vectors], 16 * vectors

    @njit
    def run(weights, stride, tile, row, slots, total):  # type: ignore[no-untyped-def]
        add(weights, stride, tile, row, slots, total)

    weights, tile = whole((members, 20), 2), whole((16, width + 16), 3)
    total = whole((members, width + 16), 4)
    tile[slots:] = np.nan
    expected = total.copy()
    expected[:, :width] += weights[:, :slots] @ tile[:slots, :width]
    row = 4 * (width + 16)
    run(weights.ctypes.data, 80, tile.ctypes.data, row, slots, total.ctypes.data)
    assert total.tolist() == expected.tolist()
