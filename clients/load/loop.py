"""An event loop that knows how long it had nothing to do."""

import asyncio
import selectors
import time


class WatchedLoop(asyncio.SelectorEventLoop):
    """Counts the time in which it waited for events.

    A loop that never waits is the bottleneck, whether it computes or is kept from its core by
    others: what arrives is then read later and later, which no single delay shows, since every
    stream has one message at most before the loop and the others behind it.
    """

    def __init__(self) -> None:
        self._events = _TimedSelector()
        super().__init__(self._events)

    @property
    def idle_seconds(self) -> float:
        """So far."""
        return self._events.waited


class _TimedSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        begun = time.monotonic()
        found = super().select(timeout)
        self.waited += time.monotonic() - begun
        return found
