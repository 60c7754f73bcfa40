"""How late the event loop is: a timer that should fire often, and by how much it does not.

Read by any thread, also while the loop is blocked. Knows nothing of Prometheus or gRPC.
"""

import asyncio
import time
from collections import deque

BEAT_SECONDS = 0.1
WINDOW_SECONDS = 15.0  # a scrape sees the worst since the one before it


class LoopLag:
    """The worst lag of the last WINDOW_SECONDS; `now` is on time.monotonic's clock."""

    def __init__(self) -> None:
        self._due: float | None = None  # when the timer should fire next
        self._beats: deque[tuple[float, float]] = deque()  # when it fired, how late

    async def run(self) -> None:
        """Measures until cancelled."""
        try:
            while True:
                self._due = time.monotonic() + BEAT_SECONDS
                await asyncio.sleep(BEAT_SECONDS)
                self.beat(time.monotonic())
        finally:
            self._due = None

    def beat(self, now: float) -> None:
        """Notes that the timer fired."""
        assert self._due is not None
        late = max(now - self._due, 0.0)
        while self._beats and self._beats[-1][1] <= late:
            self._beats.pop()  # never the worst again
        self._beats.append((now, late))
        while self._beats[0][0] < now - WINDOW_SECONDS:
            self._beats.popleft()

    def value(self, now: float) -> float:
        """Seconds; counts the beat that is overdue."""
        due = self._due
        overdue = 0.0 if due is None else max(now - due, 0.0)
        recent = [late for at, late in list(self._beats) if at >= now - WINDOW_SECONDS]
        return max(overdue, *recent) if recent else overdue
