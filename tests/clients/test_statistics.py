"""The formulas, against numbers worked out by hand and against other formulas."""

import math
import random
import statistics as reference

import pytest

from clients import statistics
from clients.records import Record
from tests.clients.builders import failed, row


def answers(marks: dict[str, list[int]], **changes: object) -> list[Record]:
    return [
        row(problem, sample=sample, correct=bool(mark), **changes)
        for problem, samples in marks.items()
        for sample, mark in enumerate(samples)
    ]


def test_pass_at_1_is_the_mean_over_problems_of_c_over_n() -> None:
    # 1/4 and 2/2 and 0/1: the mean is 1.25 / 3, not 3 right of 7
    rows = answers({"a": [1, 0, 0, 0], "b": [1, 1], "c": [0]})
    assert statistics.problem_means(rows) == {"a": 0.25, "b": 1.0, "c": 0.0}
    assert statistics.pass_at_1(rows) == pytest.approx(1.25 / 3)


def test_failed_requests_are_not_wrong_answers() -> None:
    rows = [row("a"), failed("b"), failed("a", sample=1)]
    assert statistics.pass_at_1(rows) == 1.0
    assert statistics.pass_at_1([failed("a")]) is None


def test_truncated_and_missing_answers_are_wrong() -> None:
    wrong = [row("a", correct=False, status="truncated"), row("b", correct=False)]
    assert statistics.pass_at_1([*wrong, row("c"), row("d")]) == 0.5


def test_standard_error_by_hand() -> None:
    # means 0, 1, 1: variance 1/3 (ddof 1), error sqrt(1/9)
    assert statistics.standard_error(answers({"a": [0], "b": [1], "c": [1]})) == pytest.approx(
        1 / 3
    )
    assert statistics.standard_error(answers({"a": [1]})) is None


def test_standard_error_of_one_sample_is_the_binomial_one() -> None:
    n, right = 48, 30
    rows = answers({str(i): [int(i < right)] for i in range(n)})
    p = right / n
    assert statistics.standard_error(rows) == pytest.approx(math.sqrt(p * (1 - p) / (n - 1)))


def test_standard_error_is_clustered() -> None:
    """Repeating every answer says nothing new; counting samples as independent would halve it."""
    once = {"a": [0], "b": [1], "c": [1], "d": [0]}
    four_times = {problem: marks * 4 for problem, marks in once.items()}
    error = statistics.standard_error(answers(four_times))
    assert error == statistics.standard_error(answers(once))
    # the general cluster-robust formula for a mean of equal clusters
    means = [reference.fmean(marks) for marks in four_times.values()]
    centre, g = reference.fmean(means), len(means)
    robust = math.sqrt(sum((m - centre) ** 2 for m in means) / g**2 * g / (g - 1))
    assert error == pytest.approx(robust)


def test_tokens_per_second_is_delivered_tokens_over_wall_clock() -> None:
    rows = [row("a", sent=1.0, end=2.0), row("b", sent=1.5, end=5.0), failed("c", sent=2, end=6.0)]
    assert statistics.wall_seconds(rows) == 5.0
    assert statistics.tokens_per_second(rows) == 20 / 5
    assert statistics.tokens_per_second([failed("a")]) is None


def test_segments_add_up_without_the_pause_between_them() -> None:
    rows = [row("a", end=2.0), row("b", segment=1, sent=0.5, end=3.5)]
    assert statistics.wall_seconds(rows) == 5.0
    assert statistics.tokens_per_second(rows) == 20 / 5


def test_shares() -> None:
    rows = [
        row("a", budget=96, kv_tokens_peak=95),
        row("b", budget=96, kv_tokens_peak=96),
        row("c", budget=96, kv_tokens_peak=96, kv_tokens_evicted=16),
        failed("d", budget=96),
    ]
    assert statistics.share(rows, statistics.never_reached_budget) == pytest.approx(1 / 3)
    assert statistics.share(rows, statistics.was_evicted) == pytest.approx(1 / 3)
    assert statistics.share([row("a")], statistics.never_reached_budget) == 1.0
    assert statistics.share([], statistics.was_evicted) is None


def test_shares_weigh_problems_alike() -> None:
    rows = [row("a", sample=s, kv_tokens_evicted=1) for s in range(3)] + [row("b")]
    assert statistics.share(rows, statistics.was_evicted) == 0.5


def test_paired_difference_by_hand() -> None:
    left = answers({"a": [1], "b": [0], "only left": [1]})
    right = answers({"a": [1], "b": [1], "only right": [0]})
    difference = statistics.paired_difference(left, right)
    assert difference is not None
    assert (difference.mean, difference.problems) == (-0.5, 2)
    assert (difference.low, difference.high) == (-1.0, 0.0)
    assert statistics.paired_difference(left, []) is None


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    rng = random.Random(1)
    left = answers({str(i): [int(rng.random() < 0.8)] for i in range(400)})
    right = answers({str(i): [int(rng.random() < 0.6)] for i in range(400)})
    found = statistics.paired_difference(left, right)
    assert found is not None
    by_problem = [
        a - b
        for a, b in zip(
            statistics.problem_means(left).values(),
            statistics.problem_means(right).values(),
            strict=True,
        )
    ]
    half = 1.96 * reference.stdev(by_problem) / math.sqrt(len(by_problem))
    assert found.mean == pytest.approx(reference.fmean(by_problem))
    assert found.low == pytest.approx(found.mean - half, abs=0.01)
    assert found.high == pytest.approx(found.mean + half, abs=0.01)


def test_pairing_narrows_the_interval() -> None:
    """Two cells that differ on one problem of 40, where half of the problems are hard."""
    marks = {str(i): [i % 2] for i in range(40)}
    found = statistics.paired_difference(answers(marks), answers({**marks, "0": [1]}))
    assert found is not None
    unpaired = math.hypot(*[statistics.standard_error(answers(marks)) or 0.0] * 2)
    assert found.high - found.low < unpaired


def test_the_bootstrap_repeats() -> None:
    left, right = answers({"a": [1], "b": [0]}), answers({"a": [0], "b": [1]})
    assert statistics.paired_difference(left, right) == statistics.paired_difference(left, right)
