"""Builds the view of some sequences' caches that a policy ranks."""

import hashlib
from collections.abc import Iterable, Mapping

import torch

from engine.eviction.base import CacheView, EvictionPolicy
from engine.importance import ImportanceStore
from engine.kv_pool import KvPool
from engine.query_ring import QueryRing
from scheduler.request import Sequence


class ViewBuilder:
    """Gathers from pool and ring; changes neither."""

    def __init__(
        self,
        pool: KvPool,
        ring: QueryRing | None,
        scale: float,
        frequencies: torch.Tensor | None,
        artifacts: Mapping[str, Mapping[str, torch.Tensor]],
        importance: ImportanceStore | None,
        impl: str | None = None,
    ) -> None:
        self.pool = pool
        self.ring = ring
        self._scale = scale
        self._frequencies = frequencies
        self._artifacts = artifacts
        self._importance = importance
        self._impl = impl
        self.device = pool.keys.device

    def tables(self, blocks: Iterable[Iterable[int]]) -> torch.Tensor:
        """Block tables of equal length as [sequences, blocks] int64."""
        return torch.tensor([list(table) for table in blocks], device=self.device)

    def build(
        self,
        policy: EvictionPolicy,
        sequences: list[Sequence],
        tables: torch.Tensor,
        positions: list[int],
        tokens: int,
    ) -> CacheView:
        """The view of sequences that hold `tokens` entries each.

        Args:
            policy: what it declares is gathered, and nothing else.
            sequences: running; each one's row says where its queries are.
            tables: [sequences, blocks] int64.
            positions: next logical position of each; its newest query is the one before.
            tokens: entries held.
        """
        pool, runs = self.pool, self.pool.runs(tables)
        queries, query_positions = None, None
        rows = [sequence.row for sequence in sequences if sequence.row is not None]
        if self.ring is not None and (policy.needs_queries or policy.needs_mass):
            own = [sequence.usage.cached_prompt_tokens for sequence in sequences]
            newest = [position - 1 for position in positions]
            recent = self.ring.size if policy.needs_mass else policy.needs_queries
            queries, query_positions = self.ring.read(rows, newest, own, recent)
        entry_positions = pool.gather(pool.positions, runs, tokens)
        importance = None
        if self._importance is not None and policy.needs_importance:
            importance = self._importance.read(rows, entry_positions)
        seeds = torch.tensor([_seed(sequence) for sequence in sequences], device=self.device)
        prompt_tokens = [sequence.prompt_tokens for sequence in sequences]
        return CacheView(
            keys=self._entries(pool.keys, runs, tokens, policy.needs_keys or policy.needs_mass),
            values=self._entries(pool.values, runs, tokens, policy.needs_values),
            positions=entry_positions,
            queries=queries,
            query_positions=query_positions,
            mass=pool.gather(pool.mass, runs, tokens) if policy.needs_mass else None,
            scale=self._scale,
            seeds=seeds,
            prompt_tokens=torch.tensor(prompt_tokens, device=self.device),
            frequencies=self._frequencies if policy.needs_frequencies else None,
            artifact=self._artifacts[policy.name] if policy.needs_artifact else None,
            importance=importance,
            impl=self._impl,
        )

    def _entries(
        self, pool: torch.Tensor, runs: torch.Tensor, tokens: int, wanted: bool
    ) -> torch.Tensor:
        """Keys or values of some sequences; NaN in their shape where nobody reads them."""
        if wanted:
            return self.pool.gather(pool, runs, tokens).float()
        shape = (*runs.shape[:3], tokens, pool.shape[-1])
        return torch.full((), torch.nan, device=self.device).expand(shape)


def _seed(sequence: Sequence) -> int:
    """(request seed, output, round) as one int64, so that a policy's draws repeat with the seed."""
    usage, sampling = sequence.usage, sequence.request.sampling
    text = f"{sampling.seed}/{sequence.output}/{usage.eviction_rounds}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
