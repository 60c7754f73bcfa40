"""Buckets: fine enough for a percentile to mean something, wide enough for half-hour answers."""

from itertools import pairwise

import pytest

from service.families import (
    HISTOGRAMS,
    OUTPUTS,
    RATIOS,
    REQUEST_SECONDS,
    TOKEN_SECONDS,
    TOKENS,
)


@pytest.mark.parametrize("bounds", [TOKEN_SECONDS, REQUEST_SECONDS, RATIOS])
def test_a_bound_is_at_most_half_again_the_one_before(bounds: tuple[float, ...]) -> None:
    assert all(1 < high / low <= 1.5 + 1e-9 for low, high in pairwise(bounds))


@pytest.mark.parametrize("bounds", [TOKENS, OUTPUTS])
def test_counts_are_exact_up_to_eight_and_then_within_a_quarter(bounds: tuple[int, ...]) -> None:
    assert bounds[:8] == tuple(range(1, 9))
    assert all(1 < high / low <= 1.25 for low, high in pairwise(bounds[7:]))


def test_times_reach_from_a_fast_step_to_hours() -> None:
    assert TOKEN_SECONDS[0] <= 0.0001
    assert REQUEST_SECONDS[0] <= 0.0005
    assert REQUEST_SECONDS[-1] > 2 * 3600
    for name, spec in HISTOGRAMS.items():
        if name.startswith("request_") and name.endswith("_time_seconds"):
            assert spec.bounds[-1] > 1800, name


def test_no_compression_is_not_drawn_as_less_than_one() -> None:
    assert RATIOS[:2] == (0.99, 1)
