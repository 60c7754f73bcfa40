"""The eviction rounds of one step: at the cap, and where blocks lack.

An elastic sequence grows beyond its promise into spare blocks. When others need those, it is
pressed: the longest over its floor first, by what is needed and at least its reclaim. All of that
comes before anything of the plan is laid out, because evictions come before all writes.

Where whole blocks go, nothing moves: they leave the table at once, and the plan does not say so.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace

from scheduler.budget import Budget, whole
from scheduler.kv import KvLedger
from scheduler.plan import Eviction, Totals
from scheduler.request import Sequence

ChooseBlocks = Callable[[Sequence, list[int], int], list[int]]
"""(sequence, full blocks of it, oldest first, how many go) -> those that go."""

_Entry = tuple[int, tuple[float, ...], Sequence]  # minus tokens over the floor, last in order first


def oldest_blocks(sequence: Sequence, candidates: list[int], count: int) -> list[int]:
    """ChooseBlocks of a runner that cannot rank: the oldest go."""
    return candidates[:count]


class Rounds:
    """Makes room for sequences with a budget, and takes it from elastic ones."""

    def __init__(
        self,
        kv: KvLedger,
        totals: Totals,
        running: Iterable[Sequence],
        choose_blocks: ChooseBlocks,
    ) -> None:
        self.evictions: dict[Sequence, Eviction] = {}  # one at most per sequence
        self._compacted: set[Sequence] = set()  # these, and who lost whole blocks
        self._kv = kv
        self._choose_blocks = choose_blocks
        self._totals = totals
        self._running = running
        self._heap: list[_Entry] | None = None  # who can be pressed; built when blocks first lack
        self._pressable = 0  # blocks that pressing could make spare, once the heap is there

    def reserve(self, sequence: Sequence, count: int) -> int:
        """Makes room for 1 to `count` more tokens of a sequence with a budget; for how many."""
        budget = _budget(sequence)
        if sequence.kv_tokens == budget.cap:
            self._compact(sequence, budget.reclaim)
        elif budget.elastic and self._kv.room(sequence) == 0:
            self._find_room(sequence)
        count = min(count, budget.cap - sequence.kv_tokens, self._kv.room(sequence))
        self._grow(sequence, count)
        return count

    def press(self, blocks: int) -> bool:
        """Makes `blocks` more spare; False, and nothing done, if elastic sequences lack them."""
        heap = self._candidates()
        if blocks > self._pressable:
            return False
        while blocks > 0:
            before = self._pressable
            self._press(heap[0][2], blocks)
            blocks -= before - self._pressable
            heap = self._candidates()
        return True

    def _find_room(self, sequence: Sequence) -> None:
        """A block from who is longest over its floor; from its own entries if that is itself."""
        heap = self._candidates()
        if heap and -heap[0][0] > _over(sequence):
            self._press(heap[0][2], 1)
        else:
            self._compact(sequence, _budget(sequence).reclaim)

    def _press(self, sequence: Sequence, blocks: int) -> None:
        """Takes up to so many surplus blocks; the sequence's next token still finds its slot."""
        fewer = min(blocks, self._surplus(sequence))
        most = (len(sequence.blocks) - fewer) * self._kv.block_size - 1
        budget = _budget(sequence)
        gone = max(sequence.kv_tokens - most, budget.reclaim)
        self._compact(sequence, whole(gone, budget.unit))
        self._grow(sequence, 1)

    def _compact(self, sequence: Sequence, gone: int) -> None:
        """Evicts `gone` entries; all that one sequence loses in a plan is one round."""
        budget, usage, totals = _budget(sequence), sequence.usage, self._totals
        surplus = self._surplus(sequence)
        usage.kv_tokens_evicted += gone
        totals.evicted[budget.policy] += gone
        if sequence.kv_tokens < budget.cap:
            usage.kv_tokens_pressed += gone
            totals.pressed += gone
        if sequence not in self._compacted:
            self._compacted.add(sequence)
            usage.eviction_rounds += 1
            totals.rounds[budget.policy] += 1
        if budget.unit > 1:
            self._drop(sequence, gone // budget.unit)
        else:
            self._shrink(sequence, sequence.kv_tokens - gone)
        self._pressable += self._surplus(sequence) - surplus

    def _shrink(self, sequence: Sequence, keep: int) -> None:
        tokens, position = sequence.kv_tokens, sequence.computed
        earlier = self.evictions.get(sequence)
        if earlier is None:
            blocks = tuple(sequence.blocks[: self._kv.blocks_for(tokens)])
            self.evictions[sequence] = Eviction(sequence, position, tokens, keep, blocks)
        else:
            self.evictions[sequence] = replace(earlier, keep=keep)
        self._kv.shrink(sequence, keep)

    def _drop(self, sequence: Sequence, count: int) -> None:
        """Takes out `count` blocks of those without any pinned, recent or free slot."""
        budget, size = _budget(sequence), self._kv.block_size
        first = self._kv.blocks_for(budget.pinned)
        candidates = sequence.blocks[first : (sequence.kv_tokens - budget.recent) // size]
        assert count <= len(candidates), "a round would take what is pinned"
        self._kv.drop(sequence, self._choose_blocks(sequence, candidates, count))

    def _grow(self, sequence: Sequence, tokens: int) -> None:
        surplus = self._surplus(sequence)
        grown = self._kv.grow(sequence, tokens)
        assert grown, "an output with a budget found no room"
        if self._heap is not None and self._surplus(sequence) > surplus:
            self._pressable += self._surplus(sequence) - surplus
            heapq.heappush(self._heap, _entry(sequence))

    def _candidates(self) -> list[_Entry]:
        """Who can be pressed, as a heap whose top is valid."""
        if self._heap is None:
            members = [sequence for sequence in self._running if self._surplus(sequence)]
            self._pressable = sum(self._surplus(sequence) for sequence in members)
            self._heap = [_entry(sequence) for sequence in members]
            heapq.heapify(self._heap)
        heap = self._heap
        while heap and (heap[0][0] != -_over(heap[0][2]) or not self._surplus(heap[0][2])):
            sequence = heapq.heappop(heap)[2]  # compacted since it came here
            if self._surplus(sequence):
                heapq.heappush(heap, _entry(sequence))
        return heap

    def _surplus(self, sequence: Sequence) -> int:
        """Blocks that pressing could take: from elastic sequences, and only while they decode."""
        budget = sequence.request.budget
        if budget is None or not budget.elastic or sequence.pending != 1:
            return 0
        return self._kv.surplus(sequence)


def _entry(sequence: Sequence) -> _Entry:
    return -_over(sequence), tuple(-part for part in sequence.order), sequence


def _over(sequence: Sequence) -> int:
    """Entries that it holds above its floor."""
    return sequence.kv_tokens - _budget(sequence).floor


def _budget(sequence: Sequence) -> Budget:
    budget = sequence.request.budget
    assert budget is not None, "only a budget evicts"
    return budget
