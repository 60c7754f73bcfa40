"""The formulas behind every number a report shows. Pure functions over rows.

Failed requests (status "error") are no answers: they count in `errors` and nowhere else. Every
other row counts in Pass@1, also where it was truncated or gave no answer.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clients.records import Record

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean paired difference of two cells, with a bootstrap interval over problems."""

    mean: float
    low: float
    high: float
    problems: int  # those present in both cells


def answered(rows: Sequence[Record]) -> list[Record]:
    """The rows of requests that did not fail."""
    return [row for row in rows if not row.failed]


def problem_means(rows: Sequence[Record]) -> dict[str, float]:
    """c/n of every problem, by id: right answers over answers."""
    marks: dict[str, list[bool]] = defaultdict(list)
    for row in answered(rows):
        marks[row.problem].append(row.correct)
    return {problem: sum(right) / len(right) for problem, right in marks.items()}


def pass_at_1(rows: Sequence[Record]) -> float | None:
    """Mean over problems of c/n; None without answers."""
    means = problem_means(rows)
    return statistics.fmean(means.values()) if means else None


def standard_error(rows: Sequence[Record]) -> float | None:
    """Standard error of `pass_at_1`, clustered by problem; None with fewer than two problems.

    Samples of one problem are not independent, so the problem is the unit: the standard deviation
    of the problem means over the root of their number.
    """
    means = list(problem_means(rows).values())
    if len(means) < 2:
        return None
    return statistics.stdev(means) / math.sqrt(len(means))


def wall_seconds(rows: Sequence[Record]) -> float:
    """Wall clock of a cell: from the first request sent to the last end, over its segments.

    An interrupted segment ends with its last delivered answer. What its unfinished requests had
    produced is lost and not counted, so resuming can only make a cell look slower.
    """
    starts: dict[int, float] = {}
    ends: dict[int, float] = {}
    for row in rows:
        starts[row.segment] = min(starts.get(row.segment, math.inf), row.sent)
        ends[row.segment] = max(ends.get(row.segment, 0.0), row.end)
    return sum(ends[segment] - starts[segment] for segment in starts)


def tokens_per_second(rows: Sequence[Record]) -> float | None:
    """Delivered tokens per second of wall clock; None without answers."""
    seconds = wall_seconds(rows)
    delivered = sum(row.completion_tokens for row in answered(rows))
    return delivered / seconds if seconds > 0 and delivered else None


def share(rows: Sequence[Record], holds: Callable[[Record], bool]) -> float | None:
    """Mean over problems of the share of answers for which `holds`; None without answers."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for row in answered(rows):
        hits[row.problem].append(holds(row))
    return statistics.fmean(sum(h) / len(h) for h in hits.values()) if hits else None


def was_evicted(row: Record) -> bool:
    """Something was evicted while this answer was decoded."""
    return row.kv_tokens_evicted > 0


def never_reached_budget(row: Record) -> bool:
    """The answer was over before its cache was as long as the budget, which thus did nothing."""
    return row.budget is None or row.kv_tokens_peak < row.budget


def paired_difference(
    rows: Sequence[Record], baseline: Sequence[Record], seed: int = 0
) -> Difference | None:
    """Pass@1 of `rows` minus that of `baseline`, paired by problem; None without common problems.

    The interval is the percentile bootstrap over problems, the same for the same rows and seed.
    """
    left, right = problem_means(rows), problem_means(baseline)
    differences = [left[problem] - right[problem] for problem in left if problem in right]
    if not differences:
        return None
    import numpy as np  # here, because most users of this module resample nothing

    sample = np.array(differences)
    drawn = np.random.default_rng(seed).integers(len(sample), size=(RESAMPLES, len(sample)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(sample[drawn].mean(axis=1), [tail, 1 - tail])
    return Difference(statistics.fmean(differences), float(low), float(high), len(differences))
