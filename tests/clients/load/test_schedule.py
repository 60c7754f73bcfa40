"""When requests are scheduled: counts, rates, seeds, distributions, traces."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.errors import DataError
from clients.load.arrivals import Call, Rate, read_trace
from clients.load.mix import Share
from clients.load.schedule import times

RATES = st.floats(0.1, 200)
SECONDS = st.floats(0, 30)


@given(RATES, st.floats(0.05, 20), SECONDS, SECONDS, st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_warm_up_and_window_each_get_their_number(
    per_second: float, burstiness: float, warm_up: float, seconds: float, seed: int
) -> None:
    found = times(Rate(per_second, burstiness), warm_up, seconds, seed)
    assert len(found) == round(per_second * warm_up) + round(per_second * seconds)
    assert (found < warm_up).sum() == round(per_second * warm_up)
    assert (np.diff(found) >= 0).all()
    if len(found):
        assert found[0] >= 0
        assert found[-1] < warm_up + seconds
    again = times(Rate(per_second, burstiness), warm_up, seconds, seed)
    assert (found == again).all()


@given(RATES, SECONDS, SECONDS)
@settings(max_examples=100, deadline=None)
def test_a_constant_rate_never_drifts(per_second: float, warm_up: float, seconds: float) -> None:
    found = times(Rate(per_second, None), warm_up, seconds, 0)
    assert found.tolist() == [index / per_second for index in range(len(found))]
    # every multiple of 1 / rate that lies inside, give or take the last one's rounding
    assert abs(len(found) - (warm_up + seconds) * per_second) <= 1


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_intervals_have_the_deviation_of_their_gamma_distribution(burstiness: float) -> None:
    """The coefficient of variation of a gamma distribution is 1 / sqrt(shape)."""
    intervals = np.diff(times(Rate(100, burstiness), 0, 300, 3))
    assert intervals.mean() == pytest.approx(1 / 100, rel=0.01)
    assert intervals.std() / intervals.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_poisson_intervals_are_exponential() -> None:
    """Kolmogorov and Smirnov's distance to 1 - exp(-rate * t); 1.63 / sqrt(n) is its 1 % level."""
    intervals = np.sort(np.diff(times(Rate(50, 1.0), 0, 200, 7)))
    steps = np.arange(len(intervals)) / len(intervals)
    assert np.abs(1 - np.exp(-50 * intervals) - steps).max() < 1.63 / np.sqrt(len(intervals))


def test_seeds_differ() -> None:
    assert (times(Rate(5), 0, 10, 1) != times(Rate(5), 0, 10, 2)).any()


# Traces


def trace(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_trace_starts_with_its_first_line(tmp_path: Path) -> None:
    path = trace(
        tmp_path,
        '{"timestamp": 1700000000.5, "input_length": 6, "output_length": 3, "hash_ids": [1]}',
        "",
        '{"timestamp": 1700000001, "budget": "full"}',
        '{"timestamp": 1700000001, "budget": 96, "policy": "h2o"}',
    )
    found = read_trace(path)
    assert found.name == "calls.jsonl"
    assert found.calls == (
        Call(timestamp=0.0, input_length=6, output_length=3),
        Call(timestamp=0.5, budget="full"),
        Call(timestamp=0.5, budget=96, policy="h2o"),
    )
    assert [call.share for call in found.calls] == [None, Share(0), Share(96, "h2o")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"calls.jsonl:2: .*want an object with timestamp"),
        ("[]", r"calls.jsonl:2: .*want an object with timestamp"),
        ("{}", r"calls.jsonl:2: .*timestamp"),
        ('{"timestamp": "now"}', r"calls.jsonl:2: .*timestamp"),
        ('{"timestamp": 4}', r"calls.jsonl:2: got the timestamp 4 after 5; sort the trace"),
        ('{"timestamp": 6, "input_length": 0}', r"calls.jsonl:2: got the lengths \(0, None\)"),
        ('{"timestamp": 6, "budget": 0}', r"calls.jsonl:2: got the budget 0"),
        ('{"timestamp": 6, "budget": "whole"}', r"calls.jsonl:2: got the budget 'whole'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_trace(trace(tmp_path, '{"timestamp": 5}', line))


def test_no_trace(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the trace"):
        read_trace(tmp_path / "missing")
    with pytest.raises(DataError, match="has no lines"):
        read_trace(trace(tmp_path, ""))
