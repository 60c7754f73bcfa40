"""A runner that really stores what a plan tells it to, and reads it back.

A KV entry stands for a token, its position and everything before it. Blocks that are shared or
reused wrongly, moves and writes in the wrong order, a stale prefix cache: all end in a sequence
whose slots do not hold what they should.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple
from weakref import WeakKeyDictionary

from engine.fake import next_token
from scheduler.plan import Chunk, Eviction, StepPlan, StepResult
from scheduler.request import Sequence

Draw = Callable[[Chunk, int], int | None]
"""(a chunk that samples, its last token) -> the next token; None: not finite."""


class Entry(NamedTuple):
    """What one slot holds."""

    owner: object  # who may read it
    position: int
    prefix: int  # hash of all tokens up to here


@dataclass
class Held:
    """What a sequence must find in its slots, in cache order."""

    computed: int = 0
    entries: list[Entry] = field(default_factory=list)


def by_hand(chunk: Chunk, last: int) -> int:
    """The fake model's next token."""
    return next_token(last, chunk.start + chunk.count - 1)


class MemoryRunner:
    """Executes plans on a list of slots; asserts what a plan may rely on and must not break."""

    def __init__(self, total_blocks: int, block_size: int, prefix_cache: bool, draw: Draw) -> None:
        self.slots: list[Entry | None] = [None] * (total_blocks * block_size)
        self.total_blocks = total_blocks
        self._block_size = block_size
        self._prefix_cache = prefix_cache
        self._draw = draw
        self._rng = random.Random(5)
        self._held: WeakKeyDictionary[Sequence, Held] = WeakKeyDictionary()
        self._drawn: WeakKeyDictionary[Sequence, int | None] = WeakKeyDictionary()  # last tokens
        self.dropped: list[tuple[Sequence, int]] = []  # entries that went in whole blocks

    def execute(self, plan: StepPlan) -> StepResult:
        """Evictions, then all writes, then all reads, then draws: the order of a real step."""
        for eviction in plan.evictions:
            self._evict(eviction)
        for chunk in plan.chunks:
            self._write(chunk)
        for chunk in plan.chunks:
            self._verify(chunk.sequence, chunk.sequence.blocks)
        samples = [chunk for chunk in plan.chunks if chunk.samples]
        tokens = [self._draw(chunk, self._known(chunk.sequence)[-1]) for chunk in samples]
        for chunk, token in zip(samples, tokens, strict=True):
            self._drawn[chunk.sequence] = token
        return StepResult(tokens)

    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        """Random ones; their entries are gone from here on."""
        size, budget = self._block_size, sequence.request.budget
        held = self._held[sequence].entries
        assert budget is not None
        assert 1 <= count <= len(candidates)
        self._verify(sequence, sequence.blocks)
        places = [sequence.blocks.index(block) for block in candidates]
        assert places == sorted(places)
        assert places[0] * size >= budget.pinned, "a pinned entry would go"
        assert (places[-1] + 1) * size <= len(held) - budget.recent, "a recent entry would go"
        before = sequence.kv_tokens
        assert budget.elastic or before == budget.cap, "eviction only at the cap"
        assert before - count * size >= budget.floor - budget.reclaim, "pressed below the floor"
        gone = self._rng.sample(places, count)
        kept = (entry for i, entry in enumerate(held) if i // size not in gone)
        self._held[sequence].entries = list(kept)
        self.dropped.append((sequence, count * size))
        return [sequence.blocks[place] for place in gone]

    def _write(self, chunk: Chunk) -> None:
        sequence, held = chunk.sequence, self._held.get(chunk.sequence)
        if held is None or held.computed != chunk.start:  # admitted, perhaps once more
            assert chunk.start % self._block_size == 0, "only full blocks are shared"
            assert chunk.start <= sequence.prompt_tokens, "only a prompt is shared"
            held = self._held[sequence] = Held(chunk.start, self._entries(sequence, 0, chunk.start))
        assert chunk.kv_start == len(held.entries)
        end = chunk.start + chunk.count
        held.entries += self._entries(sequence, chunk.start, end)
        held.computed = end
        for i in range(chunk.kv_start, len(held.entries)):
            self.slots[self._slot(sequence.blocks, i)] = held.entries[i]

    def _evict(self, eviction: Eviction) -> None:
        sequence, held = eviction.sequence, self._held[eviction.sequence]
        budget = sequence.request.budget
        assert budget is not None, "only a budget evicts"
        assert eviction.tokens == len(held.entries)
        assert len(eviction.blocks) == -(-eviction.tokens // self._block_size)
        if budget.elastic:
            assert eviction.tokens <= budget.cap
            assert budget.floor - budget.reclaim <= eviction.keep, "pressed below the floor"
            assert eviction.keep <= eviction.tokens - budget.reclaim
        else:
            assert eviction.tokens == budget.cap, "eviction only at the cap"
            assert eviction.keep == budget.cap - budget.reclaim
        assert eviction.position == held.computed
        self._verify(sequence, eviction.blocks)
        last = eviction.tokens - budget.recent
        middle = eviction.keep - budget.pinned - budget.recent
        assert middle >= 0, "what is pinned and recent must stay"
        stays = sorted(self._rng.sample(range(budget.pinned, last), middle))
        kept = [*range(budget.pinned), *stays, *range(last, eviction.tokens)]
        held.entries = [held.entries[i] for i in kept]
        for i in range(eviction.tokens):
            if i >= budget.pinned:  # what is pinned may be shared, and does not move
                entry = held.entries[i] if i < eviction.keep else None
                self.slots[self._slot(eviction.blocks, i)] = entry

    def _verify(self, sequence: Sequence, blocks: list[int] | tuple[int, ...]) -> None:
        expected = self._held[sequence].entries
        found = [self.slots[self._slot(blocks, i)] for i in range(len(expected))]
        assert found == expected, f"{sequence.request.key}/{sequence.output} reads another's KV"

    def _slot(self, blocks: list[int] | tuple[int, ...], entry: int) -> int:
        return blocks[entry // self._block_size] * self._block_size + entry % self._block_size

    def _known(self, sequence: Sequence) -> list[int]:
        """Its tokens, and the one it does not know yet, which the step before drew here.

        In the step that draws, `length` counts that draw already.
        """
        if sequence not in self._drawn or sequence.computed <= len(sequence.tokens):
            return sequence.tokens
        return [*sequence.tokens, self._drawn[sequence] or 0]

    def _entries(self, sequence: Sequence, start: int, end: int) -> list[Entry]:
        request = sequence.request
        private = ("output", request.key, sequence.output)
        shared = ("salt", request.salt) if self._prefix_cache else ("request", request.key)
        prefixes = accumulate(
            self._known(sequence)[:end], lambda before, token: hash((before, token))
        )
        return [
            Entry(
                shared if i < sequence.prompt_tokens and request.shares_prompt else private,
                i,
                prefix,
            )
            for i, prefix in enumerate(prefixes)
            if i >= start
        ]
