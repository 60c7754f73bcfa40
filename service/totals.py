"""The load over all engine processes: each counts from its own start, the front keeps the sums.

Knows nothing of Prometheus or gRPC. Written by the event loop, read by any thread.
"""

from collections import deque

import msgspec

from engine.messages import Load

COUNTERS = (
    "prompt_tokens_total",
    "cached_prompt_tokens_total",
    "generation_tokens_total",
    "preemptions_total",
    "ignored_events_total",
    "steps_failed_total",
    "tokens_pressed_total",
)
COUNTERS_BY_POLICY = ("tokens_evicted_total", "eviction_rounds_total")

RATE_SECONDS = 5.0
RATE_RESOLUTION = 0.25  # seconds


class LoadTotals:
    """The newest snapshot, with totals that survive a restart of the engine."""

    def __init__(self) -> None:
        self._before = Load()  # sums of the engines that have ended
        self._now = Load()
        self._rate = SlidingRate()

    def update(self, load: Load, now: float) -> None:
        """Takes the snapshot of an engine step; `now` is on time.monotonic's clock."""
        self._rate.add(load.generation_tokens_total - self._now.generation_tokens_total, now)
        self._now = load

    def engine_ended(self) -> None:
        """Keeps the counts of the engine that ended; what it held is gone."""
        self._before = self.load
        self._now = Load()

    @property
    def load(self) -> Load:
        """The snapshot with summed totals."""
        before, now = self._before, self._now
        sums: dict[str, object] = {
            name: getattr(before, name) + getattr(now, name) for name in COUNTERS
        }
        for name in COUNTERS_BY_POLICY:
            old, new = getattr(before, name), getattr(now, name)
            sums[name] = {key: old.get(key, 0) + new.get(key, 0) for key in {**old, **new}}
        return msgspec.structs.replace(now, **sums)

    def tokens_per_second(self, now: float) -> float:
        """New tokens per second over the last RATE_SECONDS."""
        return self._rate.value(now)


class SlidingRate:
    """Events per second over the last RATE_SECONDS, counted in slices of RATE_RESOLUTION."""

    def __init__(self) -> None:
        self._slices: deque[tuple[float, int]] = deque()  # end of the slice, events in it

    def add(self, count: int, now: float) -> None:
        if self._slices and now < self._slices[-1][0]:
            end, before = self._slices.pop()
            self._slices.append((end, before + count))
            return
        self._slices.append((now + RATE_RESOLUTION, count))
        while self._slices[0][0] < now - RATE_SECONDS:
            self._slices.popleft()

    def value(self, now: float) -> float:
        slices = list(self._slices)  # one atomic copy: the loop may add meanwhile
        return sum(count for end, count in slices if end >= now - RATE_SECONDS) / RATE_SECONDS
