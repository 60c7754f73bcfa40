"""Keeps count of the attention that each cache entry received, for policies that rank by it.

Exact and cheap at once: the ring holds the newest queries, and they are counted in one go before
the ring wraps or an eviction runs. Nothing is evicted in between, so their softmax over the cache
is the one the forward computed. Of a prefill chunk longer than the ring only the newest count.
Sliding-window layers are counted as if they had no window.
"""

from collections import defaultdict
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from engine.eviction.attention import accumulated
from engine.eviction.base import CacheView, EvictionPolicy
from engine.views import ViewBuilder
from scheduler.plan import Chunk
from scheduler.request import Sequence


class MassCounter:
    """Counts ring queries into the pool's mass."""

    def __init__(self, views: ViewBuilder) -> None:
        self._views = views
        self._uncounted: WeakKeyDictionary[Sequence, int] = WeakKeyDictionary()

    def count(self, view: CacheView, sequences: list[Sequence], tables: torch.Tensor) -> CacheView:
        """The view with all ring queries counted; the pool's mass is brought up to date."""
        since = [self._uncounted.get(sequence, 0) for sequence in sequences]
        assert view.mass is not None
        newest = torch.tensor(since, device=view.mass.device)
        mass = accumulated(view, view.mass, newest)
        self._views.pool.scatter_mass(tables, mass, _first_own_block(sequences, self._views))
        for sequence in sequences:
            self._uncounted[sequence] = 0
        return replace(view, mass=mass)

    def before_forward(self, policies: dict[Sequence, EvictionPolicy], chunks: list[Chunk]) -> None:
        """Counts what this step's queries would overwrite, then books this step's queries.

        Args:
            policies: of the chunks' sequences; all of them read mass.
            chunks: after the plan's evictions.
        """
        assert self._views.ring is not None
        size = self._views.ring.size
        due: dict[tuple[EvictionPolicy, int, int], list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            uncounted = self._uncounted.get(chunk.sequence, 0)
            if uncounted and uncounted + chunk.count > size:
                blocks = self._views.pool.blocks_for(chunk.kv_start)
                due[policies[chunk.sequence], chunk.kv_start, blocks].append(chunk)
        for (policy, tokens, blocks), group in due.items():
            sequences = [chunk.sequence for chunk in group]
            tables = self._views.tables(s.blocks[:blocks] for s in sequences)
            starts = [chunk.start for chunk in group]
            view = self._views.build(policy, sequences, tables, starts, tokens)
            self.count(view, sequences, tables)
        for chunk in chunks:
            counted = self._uncounted.get(chunk.sequence, 0)
            self._uncounted[chunk.sequence] = min(counted + chunk.count, size)


def _first_own_block(sequences: list[Sequence], views: ViewBuilder) -> int:
    """Blocks before it hold only pinned entries in all of `sequences`, and may be shared."""
    budgets = [s.request.budget for s in sequences]
    pinned = min(budget.pinned if budget else 0 for budget in budgets)
    return pinned // views.pool.block_size
