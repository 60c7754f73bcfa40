"""The waiting queue (priority, then order of arrival), followers, and the deadlines.

Removal is lazy, so that all of it costs O(log n) however many wait.
"""

import heapq
import itertools
from collections.abc import Iterator
from enum import StrEnum

from scheduler.request import Sequence


class WaitReason(StrEnum):
    """What outputs wait for."""

    KV_BLOCKS = "kv_blocks"  # the pool lacks blocks for the head of the queue
    MAX_RUNNING = "max_running"  # every row of the batch is taken
    MAX_BATCH_TOKENS = "max_batch_tokens"  # the step's tokens are spent
    SHARED_PROMPT = "shared_prompt"  # another output of the request computes their prompt
    NEXT_STEP = "next_step"  # they came while a step was under way


class WaitingQueue:
    """Sequences that wait for admission."""

    def __init__(self) -> None:
        self.reason = WaitReason.NEXT_STEP  # what holds the head up, and so all of them
        self._heap: list[tuple[tuple[int, float, int, int], Sequence]] = []
        self._members: set[Sequence] = set()

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._members

    def push(self, sequence: Sequence) -> None:
        self._members.add(sequence)
        heapq.heappush(self._heap, (sequence.order, sequence))

    def held_up(self, *, rows: bool, room: bool) -> None:
        """Notes why admission ended: whether there were rows and tokens left of the step."""
        if not self._members:
            self.reason = WaitReason.NEXT_STEP
        elif not rows:
            self.reason = WaitReason.MAX_RUNNING
        else:
            self.reason = WaitReason.KV_BLOCKS if room else WaitReason.MAX_BATCH_TOKENS

    def head(self) -> Sequence | None:
        """The next to be admitted; it stays in the queue."""
        while self._heap and self._heap[0][1] not in self._members:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def remove(self, sequence: Sequence) -> None:
        self._members.discard(sequence)
        if len(self._heap) > 2 * len(self._members) + 64:  # mostly removed: sweep them out
            self._heap = [entry for entry in self._heap if entry[1] in self._members]
            heapq.heapify(self._heap)


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
