"""The formulas behind every number a report shows. Pure functions over rows.

Failed requests are no answers: they count in `errors` and nowhere else. Answers that could not be
scored (took too long, or broke down) were delivered, so they count in speeds and lengths, but there
is no verdict on them: they are in no score, neither right nor wrong, and shown as `unscored`. Every
other row counts in the scores, also where it was truncated or gave no answer.
"""

import math
import statistics
from collections import Counter, defaultdict
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

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does; one problem has no interval."""
        return self.problems > 1 and not self.low <= 0 <= self.high


def answered(rows: Sequence[Record]) -> list[Record]:
    """The rows of requests that did not fail."""
    return [row for row in rows if not row.failed]


def scored(rows: Sequence[Record]) -> list[Record]:
    """The answers on which there is a verdict."""
    return [row for row in answered(rows) if not row.unscored]


def by_problem(rows: Sequence[Record]) -> dict[str, list[Record]]:
    """The scored answers of one task, by problem id, in order of first appearance."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for row in scored(rows):
        groups[row.problem].append(row)
    return dict(groups)


def problem_means(rows: Sequence[Record]) -> dict[str, float]:
    """c/n of every problem, by id: right answers over scored answers."""
    return {
        problem: sum(row.correct for row in own) / len(own)
        for problem, own in by_problem(rows).items()
    }


def pass_at_1(rows: Sequence[Record]) -> float | None:
    """Mean over problems of c/n; None without scored answers."""
    means = problem_means(rows)
    return statistics.fmean(means.values()) if means else None


def pass_at_k(rows: Sequence[Record], k: int) -> float | None:
    """Chance that one of `k` answers to a problem is right, mean over problems.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) of Codex (arXiv 2107.03374, section 2.1). None
    where a problem has fewer than `k` scored answers, as a mean over the others is another
    benchmark's.
    """
    problems = by_problem(rows).values()
    if not problems or min(len(own) for own in problems) < k:
        return None
    return statistics.fmean(
        1 - math.comb(sum(not row.correct for row in own), k) / math.comb(len(own), k)
        for own in problems
    )


def majority(rows: Sequence[Record]) -> float | None:
    """Share of problems whose most frequent answer is right: majority@k.

    k is the number of scored answers to the problem: all of them are asked, though those without
    a usable answer do not vote. All right answers are one group however they are written, as
    the scoring held them equal; wrong ones are grouped by their text without whitespace, which may
    split what is equal and so favours the right group. A tie counts as the share of the tied groups
    that are right; no vote at all is wrong. None without scored answers.
    """
    problems = by_problem(rows).values()
    return statistics.fmean(_vote(own) for own in problems) if problems else None


def _vote(rows: Sequence[Record]) -> float:
    votes = Counter(
        None if row.correct else "".join(row.extracted.split())
        for row in rows
        if row.status == "ok" and row.extracted is not None
    )
    top = [group for group, count in votes.items() if count == max(votes.values())]
    return (None in top) / len(top) if top else 0.0


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

    Rows of several tasks give the mean over the tasks that both have, each task weighing the same.
    The interval is the percentile bootstrap over problems, drawn within each task; it is the same
    for the same rows and seed.
    """
    left, right = _by_task(rows), _by_task(baseline)
    tasks = [
        differences for task in left if (differences := _paired(left[task], right.get(task, [])))
    ]
    if not tasks:
        return None
    import numpy as np  # here, because most users of this module resample nothing

    generator = np.random.default_rng(seed)
    means = np.zeros(RESAMPLES)
    for differences in tasks:
        drawn = generator.integers(len(differences), size=(RESAMPLES, len(differences)))
        means += np.array(differences)[drawn].mean(axis=1) / len(tasks)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    mean = statistics.fmean(statistics.fmean(differences) for differences in tasks)
    return Difference(_exact(mean), _exact(low), _exact(high), sum(map(len, tasks)))


def _exact(value: float) -> float:
    """Without the error of summing, which would put an end that is 0 on one side of it."""
    return round(float(value), 12) + 0.0


def _by_task(rows: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        groups[row.task].append(row)
    return dict(groups)


def _paired(rows: Sequence[Record], baseline: Sequence[Record]) -> list[float]:
    left, right = problem_means(rows), problem_means(baseline)
    return [left[problem] - right[problem] for problem in left if problem in right]
