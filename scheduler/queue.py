"""Followers, and the deadlines; who waits for admission is in scheduler/waiting.py.

Removal is lazy, so that all of it costs O(log n) however many wait.
"""

import heapq
import itertools
from collections.abc import Iterator

from scheduler.request import Sequence


class Followers:
    """Outputs that wait, outside the queue, for one of their request to compute their prompt."""

    def __init__(self) -> None:
        self._groups: dict[int, list[Sequence]] = {}  # by request key

    def __iter__(self) -> Iterator[Sequence]:
        return itertools.chain.from_iterable(self._groups.values())

    def hold(self, followers: list[Sequence]) -> None:
        """Keeps all outputs of a request but the one that leads."""
        if followers:
            self._groups[followers[0].request.key] = followers

    def release(self, key: int) -> list[Sequence]:
        """Those of a request whose prompt is computed, or no longer shared."""
        return self._groups.pop(key, [])

    def discard(self, sequence: Sequence) -> Sequence | None:
        """Takes out one that ends; if it led, returns the next to lead."""
        group = self.release(sequence.request.key)
        leads = sequence not in group
        heir = group.pop(0) if leads and group else None
        if not leads:
            group.remove(sequence)
        self.hold(group)
        return heir


class DeadlineQueue:
    """Request keys by deadline."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._members: dict[int, float] = {}

    def push(self, deadline: float, key: int) -> None:
        self._members[key] = deadline
        heapq.heappush(self._heap, (deadline, key))

    def discard(self, key: int) -> None:
        self._members.pop(key, None)
        if len(self._heap) > 2 * len(self._members) + 64:
            self._heap = [(deadline, key) for key, deadline in self._members.items()]
            heapq.heapify(self._heap)

    def passed(self, now: float) -> list[int]:
        """Removes and returns the keys whose deadline is not after `now`."""
        keys = []
        while self._heap and self._heap[0][0] <= now:
            deadline, key = heapq.heappop(self._heap)
            if self._members.get(key) == deadline:
                del self._members[key]
                keys.append(key)
        return keys
