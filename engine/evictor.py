"""Carries out evictions: has a policy rank, and moves what it keeps.

Sequences of equal length, budget and policy are ranked and moved together. Knows tensors; when and
how many is the scheduler's.
"""

from collections import defaultdict

import torch

from engine.eviction import POLICIES
from engine.eviction.base import EvictionPolicy, build
from engine.eviction.selection import lowest_blocks
from engine.mass import MassCounter
from engine.rows import Traits
from engine.views import ViewBuilder
from kernels.compact_kv import compact_kv
from scheduler.budget import Budget
from scheduler.plan import Chunk, Eviction
from scheduler.request import Request, Sequence


class Evictor:
    """Ranks with policies, moves with compact_kv."""

    def __init__(self, views: ViewBuilder, impl: str | None) -> None:
        self._views = views
        self._mass = MassCounter(views)
        self._impl = impl
        self._policies: dict[tuple[str, tuple[tuple[str, float], ...]], EvictionPolicy] = {}

    def policy(self, sequence: Sequence) -> EvictionPolicy:
        """The policy object of a sequence with a budget; one per distinct settings."""
        budget = _budget(sequence)
        key = (budget.policy, tuple(sorted(budget.policy_settings.items())))
        if key not in self._policies:
            self._policies[key] = build(POLICIES[budget.policy], budget.policy_settings)
        return self._policies[key]

    def traits(self, sequence: Sequence) -> Traits:
        """What the sequence needs of every step: nothing, unless it can ever be evicted."""
        if not _evictable(sequence):
            return Traits(watched=False, counted=False, predictor=None)
        policy = self.policy(sequence)
        return Traits(
            watched=policy.needs_mass or policy.needs_queries > 0,
            counted=policy.needs_mass,
            predictor=policy.name if policy.needs_importance else None,
        )

    def warm_up(self, policies: list[str]) -> None:
        """Compiles compaction and what these policies rank with; moves nothing."""
        pool = self._views.pool
        layers, kv_heads = pool.keys.shape[0], pool.keys.shape[2]
        kept = torch.zeros(1, layers, kv_heads, 1, dtype=torch.int64, device=self._views.device)
        self._compact(self._views.tables([[0]]), kept, with_mass=False)
        self._compact(self._views.tables([[0]]), kept, with_mass=True)
        sequence = Sequence(Request(key=-1, prompt=(0,), max_new_tokens=1), 0, [0], row=0)
        none = torch.zeros(1, dtype=torch.int64, device=self._views.device)
        for name in policies:
            policy, tables = POLICIES[name](), self._views.tables([[0]])
            view = self._views.build(policy, [sequence], tables, [1], 1)
            if policy.needs_mass:
                view = self._mass.count(view, [sequence], tables)
            policy.select(view, 1, pinned=none, recent=none)

    def evict(self, evictions: list[Eviction]) -> None:
        """Compacts every sequence of a plan, before anything of the plan is written."""
        groups: dict[tuple[int, int, int], list[Eviction]] = defaultdict(list)
        for eviction in evictions:
            policy = self.policy(eviction.sequence)
            groups[id(policy), eviction.tokens, eviction.keep].append(eviction)
        for group in groups.values():
            self._evict_group(group)

    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        """Of a sequence's full blocks, oldest first, the `count` that its policy ranks lowest."""
        size = self._views.pool.block_size
        policy, tables = self.policy(sequence), self._views.tables([candidates])
        view = self._views.build(
            policy, [sequence], tables, [sequence.computed], len(candidates) * size
        )
        lowest = lowest_blocks(policy.score(view)[0], size, count)
        return [candidates[index] for index in lowest]

    def before_forward(self, counted: list[Chunk]) -> None:
        """Counts received attention that the step's queries would push out of the ring."""
        policies = {chunk.sequence: self.policy(chunk.sequence) for chunk in counted}
        self._mass.before_forward(policies, counted)

    def _evict_group(self, group: list[Eviction]) -> None:
        sequences = [eviction.sequence for eviction in group]
        policy = self.policy(sequences[0])
        tables = self._views.tables(eviction.blocks for eviction in group)
        positions = [eviction.position for eviction in group]
        view = self._views.build(policy, sequences, tables, positions, group[0].tokens)
        if policy.needs_mass:
            view = self._mass.count(view, sequences, tables)
        budgets = [_budget(sequence) for sequence in sequences]
        kept = policy.select(
            view,
            group[0].keep,
            pinned=torch.tensor([b.pinned for b in budgets], device=self._views.device),
            recent=torch.tensor([b.recent for b in budgets], device=self._views.device),
        )
        self._compact(tables, kept, policy.needs_mass)

    def _compact(self, tables: torch.Tensor, kept: torch.Tensor, with_mass: bool) -> None:
        pool = self._views.pool
        compact_kv(
            pool.keys,
            pool.values,
            pool.positions,
            tables.int(),
            kept,
            slot_mass=pool.mass if with_mass else None,
            impl=self._impl,
        )


def _evictable(sequence: Sequence) -> bool:
    """Whether it can ever hold more than its floor."""
    request = sequence.request
    total = request.max_new_tokens + len(request.prompt)
    return request.budget is not None and total > request.budget.floor


def _budget(sequence: Sequence) -> Budget:
    budget = sequence.request.budget
    assert budget is not None, "only sequences with a budget are evicted"
    return budget
