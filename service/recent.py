"""Quantiles of the last minute, in memory that does not grow.

Times are counted in buckets, each RATIO wider than the one before it, within slots of SLOT_SECONDS;
a slot goes as a whole. Equal times are counted at once, so it costs an engine step, not a token.
"""

import math
from collections import Counter, deque
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
SLOT_SECONDS = 5.0
RATIO = 1.1  # a quantile is the middle of its bucket, so it is off by 5 % at most
LEAST_SECONDS, MOST_SECONDS = 1e-5, 1e5  # what is beyond counts as these
_PER_LOG = 1 / math.log(RATIO)  # buckets


@dataclass(frozen=True)
class Quantiles:
    """Of the observations of the last minute; zeros without any."""

    count: int = 0
    p50: float = 0.0  # seconds
    p99: float = 0.0  # seconds


class RecentTimes:
    """Times observed within the last WINDOW_SECONDS; `now` is on time.monotonic's clock."""

    def __init__(self) -> None:
        self._slots: deque[tuple[float, Counter[int]]] = deque()  # beginning, count by bucket

    def observe(self, seconds: float, now: float, count: int = 1) -> None:
        """Adds `count` observations of `seconds`."""
        if not self._slots or now >= self._slots[-1][0] + SLOT_SECONDS:
            self._slots.append((now, Counter()))
            self._forget(now)
        self._slots[-1][1][_bucket(seconds)] += count

    def quantiles(self, now: float) -> Quantiles:
        """What the last minute was like."""
        self._forget(now)
        counts: Counter[int] = Counter()
        for _, slot in self._slots:
            counts.update(slot)
        if not counts:
            return Quantiles()
        total = counts.total()
        return Quantiles(total, _at(counts, 0.5 * total), _at(counts, 0.99 * total))

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0][0] <= now - WINDOW_SECONDS:
            self._slots.popleft()


def _bucket(seconds: float) -> int:
    within = min(max(seconds, LEAST_SECONDS), MOST_SECONDS)
    return math.floor(math.log(within) * _PER_LOG)


def _at(counts: Counter[int], rank: float) -> float:
    """Middle of the first bucket up to which at least `rank` observations lie."""
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            break
    return float(RATIO ** (bucket + 0.5))
