"""Quantiles of the last minute, against numpy, and what they forget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.recent import (
    LEAST_SECONDS,
    MOST_SECONDS,
    SLOT_SECONDS,
    WINDOW_SECONDS,
    Quantiles,
    RecentTimes,
)

TIMES = st.floats(LEAST_SECONDS, MOST_SECONDS / 1.1)


@given(st.lists(st.tuples(TIMES, st.integers(1, 50)), min_size=1, max_size=60))
def test_quantiles_are_numpys_within_five_per_cent(seen: list[tuple[float, int]]) -> None:
    recent = RecentTimes()
    for seconds, count in seen:
        recent.observe(seconds, 0.0, count)
    each = np.repeat([seconds for seconds, _ in seen], [count for _, count in seen])
    expected = np.quantile(each, [0.5, 0.99], method="inverted_cdf")
    found = recent.quantiles(0.0)
    assert found.count == len(each)
    assert found.p50 == pytest.approx(expected[0], rel=0.05)
    assert found.p99 == pytest.approx(expected[1], rel=0.05)


def test_nothing_observed_is_zeros() -> None:
    assert RecentTimes().quantiles(1e9) == Quantiles(0, 0.0, 0.0)


def test_zero_and_endless_times_count_too() -> None:
    recent = RecentTimes()
    recent.observe(0.0, 0.0)
    recent.observe(1e9, 0.0)
    assert recent.quantiles(0.0).p50 == pytest.approx(LEAST_SECONDS, rel=0.1)
    assert recent.quantiles(0.0).p99 == pytest.approx(MOST_SECONDS, rel=0.1)


@pytest.mark.parametrize("step", [0.25, 3.0, 7.0, 90.0])
def test_what_is_older_than_a_minute_is_forgotten_and_nothing_much_younger(step: float) -> None:
    recent, now = RecentTimes(), 1000.0
    for i in range(1000):
        now = 1000.0 + i * step
        recent.observe(0.1, now)
    within = [i for i in range(1000) if i * step < WINDOW_SECONDS]
    at_least = [i for i in range(1000) if i * step < WINDOW_SECONDS - SLOT_SECONDS]
    assert len(at_least) <= recent.quantiles(now).count <= len(within)
    assert recent.quantiles(now + WINDOW_SECONDS).count == 0


def test_memory_does_not_grow_with_time() -> None:
    recent = RecentTimes()
    for i in range(100_000):
        recent.observe(1e-6 * 1.001 ** (i % 30_000), i * 0.01)
    assert len(recent._slots) <= WINDOW_SECONDS / SLOT_SECONDS + 1
    assert all(len(slot) <= 250 for _, slot in recent._slots)
