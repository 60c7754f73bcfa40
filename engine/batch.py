"""From a step plan to packed tensors: ids, positions, slots, block tables, lengths.

Keeps every running sequence's block table in a row of one array, so that a step copies only the
entries that changed.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch

from engine.context import ForwardContext
from engine.importance import ImportanceStore, ImportanceWrite
from engine.kv_pool import KvPool
from engine.query_ring import QueryRing, RingWrite
from scheduler.plan import Chunk, StepPlan


@dataclass
class Batch:
    """One packed forward."""

    input_ids: torch.Tensor  # [1, tokens]
    position_ids: torch.Tensor  # [1, tokens]
    sampled_rows: torch.Tensor  # [draws] int64, packed rows whose logits are drawn from
    context: ForwardContext


class BatchBuilder:
    """Builds batches; owns the table rows of running sequences."""

    def __init__(
        self,
        pool: KvPool,
        ring: QueryRing | None,
        importance: ImportanceStore | None,
        rows: int,
        max_blocks: int,
        impl: str | None,
    ) -> None:
        self._pool = pool
        self._ring = ring
        self._importance = importance
        self._impl = impl
        self._device = pool.keys.device
        self._tables = np.zeros((rows, max_blocks), dtype=np.int32)

    def build(
        self, plan: StepPlan, watched: set[int | None], predicted: dict[int | None, str]
    ) -> Batch:
        """The tensors of one step.

        Args:
            plan: decodes first, as the scheduler orders it.
            watched: rows whose queries go to the ring.
            predicted: rows whose importance is predicted, and the policies that do it.
        """
        chunks = plan.chunks
        self._update_tables(chunks)
        counts = np.array([chunk.count for chunk in chunks])
        starts = np.array([chunk.start for chunk in chunks])
        kv_starts = np.array([chunk.kv_start for chunk in chunks])
        rows = np.array([chunk.sequence.row for chunk in chunks])
        ids = [t for c in chunks for t in c.sequence.tokens[c.start : c.start + c.count]]
        input_ids = self._move(np.array([ids], dtype=np.int64))
        first = np.concatenate([[0], np.cumsum(counts)])  # packed row of each chunk
        within = np.arange(first[-1]) - np.repeat(first[:-1], counts)
        positions = np.repeat(starts, counts) + within
        slots = self._slots(np.repeat(rows, counts), np.repeat(kv_starts, counts) + within)
        sampled = [first[i + 1] - 1 for i, chunk in enumerate(chunks) if chunk.samples]
        decodes = int((counts == 1).sum())
        lengths = (kv_starts + counts).astype(np.int32)
        placed = list(zip(first.tolist(), chunks, strict=False))
        context = ForwardContext(
            pool=self._pool,
            ring=self._ring,
            impl=self._impl,
            positions=self._move(positions.astype(np.int32)),
            slots=self._move(slots),
            decodes=decodes,
            decode_tables=self._move(self._trimmed(rows[:decodes], lengths[:decodes])),
            decode_lengths=self._move(lengths[:decodes]),
            chunk_tables=self._move(self._trimmed(rows[decodes:], lengths[decodes:])),
            chunk_lengths=self._move(lengths[decodes:]),
            chunk_starts=self._move((first[decodes:] - decodes).astype(np.int32)),
            ring_write=self._ring_write(placed, watched),
            importance=self._importance,
            importance_writes=self._importance_writes(placed, predicted, input_ids[0]),
        )
        return Batch(
            input_ids=input_ids,
            position_ids=self._move(positions[None].astype(np.int64)),
            sampled_rows=self._move(np.array(sampled, dtype=np.int64)),
            context=context,
        )

    def _ring_write(
        self, placed: list[tuple[int, Chunk]], watched: set[int | None]
    ) -> RingWrite | None:
        if self._ring is None:
            return None
        spans = [
            (first, chunk.sequence.row, chunk.start, chunk.count)
            for first, chunk in placed
            if chunk.sequence.row is not None and chunk.sequence.row in watched
        ]
        return self._ring.plan_write(spans)

    def _importance_writes(
        self, placed: list[tuple[int, Chunk]], predicted: dict[int | None, str], ids: torch.Tensor
    ) -> list[ImportanceWrite]:
        if self._importance is None:
            return []
        by_policy: dict[str, list[tuple[int, Chunk]]] = defaultdict(list)
        for first, chunk in placed:
            if chunk.sequence.row in predicted:
                by_policy[predicted[chunk.sequence.row]].append((first, chunk))
        return self._importance.plan_writes(by_policy, ids)

    def _update_tables(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            sequence = chunk.sequence
            clean = sequence.table_clean
            if clean < len(sequence.blocks):
                self._tables[sequence.row, clean : len(sequence.blocks)] = sequence.blocks[clean:]
                sequence.table_clean = len(sequence.blocks)

    def _slots(self, rows: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """Slot numbers [tokens] int64 of the given entries of the given rows."""
        size = self._pool.block_size
        blocks = self._tables[rows, entries // size].astype(np.int64)
        slots: np.ndarray = blocks * size + entries % size
        return slots

    def _trimmed(self, rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Tables [sequences, blocks] as wide as the longest needs."""
        blocks = -(-int(lengths.max(initial=1)) // self._pool.block_size)
        trimmed: np.ndarray = self._tables[rows, :blocks]
        return trimmed

    def _move(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, non_blocking=True)
