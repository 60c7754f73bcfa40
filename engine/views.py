"""Builds the view of some sequences' caches that a policy ranks."""

import hashlib
from collections.abc import Iterable

import torch

from engine.eviction.base import CacheView
from engine.kv_pool import KvPool
from engine.query_ring import QueryRing
from scheduler.request import Sequence


class ViewBuilder:
    """Gathers from pool and ring; changes neither."""

    def __init__(self, pool: KvPool, ring: QueryRing | None, scale: float) -> None:
        self.pool = pool
        self.ring = ring
        self._scale = scale
        self.device = pool.keys.device

    def tables(self, blocks: Iterable[Iterable[int]]) -> torch.Tensor:
        """Block tables of equal length as [sequences, blocks] int64."""
        return torch.tensor([list(table) for table in blocks], device=self.device)

    def build(
        self, sequences: list[Sequence], tables: torch.Tensor, positions: list[int], tokens: int
    ) -> CacheView:
        """The view of sequences that hold `tokens` entries each.

        Args:
            sequences: running; each one's row says where its queries are.
            tables: [sequences, blocks] int64.
            positions: next logical position of each; its newest query is the one before.
            tokens: entries held.
        """
        pool = self.pool
        queries, query_positions = None, None
        if self.ring is not None:
            rows = [sequence.row for sequence in sequences if sequence.row is not None]
            own = [sequence.usage.cached_prompt_tokens for sequence in sequences]
            newest = [position - 1 for position in positions]
            queries, query_positions = self.ring.read(rows, newest, own)
        seeds = torch.tensor([_seed(sequence) for sequence in sequences], device=self.device)
        return CacheView(
            keys=pool.gather(pool.keys, tables, tokens).float(),
            values=pool.gather(pool.values, tables, tokens).float(),
            positions=pool.gather(pool.positions, tables, tokens),
            queries=queries,
            query_positions=query_positions,
            mass=pool.gather(pool.mass, tables, tokens),
            scale=self._scale,
            seeds=seeds,
        )


def _seed(sequence: Sequence) -> int:
    """(request seed, output, round) as one int64, so that a policy's draws repeat with the seed."""
    usage, sampling = sequence.usage, sequence.request.sampling
    text = f"{sampling.seed}/{sequence.output}/{usage.eviction_rounds}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)
