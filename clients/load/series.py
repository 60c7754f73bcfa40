"""What happened when: counts and rates over the time of a run."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clients.load.arrivals import ClosedLoop
from clients.load.record import Row
from clients.load.runner import Result

GROWTH_ALLOWED = 0.1  # of the requests that came
DEVIATIONS = 3.0  # of a backlog that only wanders; that of a Poisson number is its root
Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]


def tokens_per_second(rows: Sequence[Row], start: float, end: float) -> tuple[Numbers, Numbers]:
    """Seconds from `start` on, and tokens per second in each; the last takes from .5 s to 1.5 s.

    Less would make a spike of the last few answers.
    """
    if end <= start:
        return np.empty(0), np.empty(0)
    begins = np.arange(start, max(end - 0.5, start + 1e-9), 1.0)
    edges = np.append(begins, end)
    at = np.concatenate([np.empty(0), *(np.array(row.chunk_times) for row in rows)])
    tokens = np.concatenate([np.empty(0), *(np.array(row.chunk_tokens) for row in rows)])
    counts, _ = np.histogram(at, edges, weights=tokens)
    return edges[:-1], counts / np.diff(edges)


def in_flight(rows: Sequence[Row], at: Numbers) -> Counts:
    """Requests sent and not ended, at some moments."""
    sent = np.sort([row.sent for row in rows if row.sent is not None])
    ended = np.sort([row.end for row in rows if row.sent is not None])
    return np.searchsorted(sent, at, side="right") - np.searchsorted(ended, at, side="right")


def held_back(rows: Sequence[Row], at: Numbers) -> Counts:
    """Requests scheduled and not sent yet, at some moments."""
    scheduled = np.sort([row.scheduled for row in rows])
    sent = np.sort([row.end if row.sent is None else row.sent for row in rows])
    return np.searchsorted(scheduled, at, side="right") - np.searchsorted(sent, at, side="right")


def falls_behind(result: Result) -> bool:
    """Whether the backlog (scheduled, not ended) of an open loop grew in the second half of the
    window by more than a tenth of what came, and by more than chance would make it.
    """
    start, end = result.window
    if isinstance(result.plan.arrivals, ClosedLoop) or end <= start:
        return False
    half = (start + end) / 2
    scheduled = np.array([row.scheduled for row in result.rows])
    ended = np.array([row.end for row in result.rows])

    def backlog(at: float) -> int:
        return int(((scheduled <= at) & (ended > at)).sum())

    came = int(((scheduled > half) & (scheduled <= end)).sum())
    grew = backlog(end) - backlog(half)
    return grew > max(GROWTH_ALLOWED * came, DEVIATIONS * math.sqrt(backlog(half) + 1))


def moments(rows: Sequence[Row], start: float, end: float) -> Numbers:
    """When the number in flight changed within a span."""
    at = [start, *(row.sent for row in rows if row.sent is not None)]
    return np.array([moment for moment in at if start <= moment <= end])
