"""From a step plan to packed tensors: ids, positions, slots, block tables, lengths, draws.

Everything is computed for all sequences at once, from the plan and the rows' arrays.
"""

from collections import defaultdict
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch

from engine.context import ForwardContext
from engine.importance import ImportanceStore, ImportanceWrite
from engine.kv_pool import KvPool
from engine.query_ring import QueryRing, RingWrite
from engine.rows import NOWHERE, Rows
from engine.sampler import Draws, uniform
from engine.transfer import move, size_of
from scheduler.plan import Chunk, StepPlan

DRAWN = -1  # in place of a token id: what the device drew last in the row


@dataclass(frozen=True)
class Batch:
    """One packed forward and its draws."""

    ids: torch.Tensor  # [tokens] int64; negative: the last token drawn in the row
    rows: torch.Tensor  # [tokens] int64
    draws: Draws
    penalties: torch.Tensor | None  # [draws] float32; None: nobody asks for any
    context: ForwardContext


@dataclass(frozen=True)
class Chunks:
    """A plan's chunks as arrays, [chunks] int64 each."""

    starts: np.ndarray  # logical
    counts: np.ndarray
    kv_starts: np.ndarray
    samples: np.ndarray  # 0 or 1
    rows: np.ndarray

    @classmethod
    def of(cls, chunks: list[Chunk]) -> "Chunks":
        flat = [
            (chunk.start, chunk.count, chunk.kv_start, chunk.samples, chunk.sequence.row)
            for chunk in chunks
        ]
        return cls(*np.array(flat, dtype=np.int64).reshape(-1, 5).T.copy())

    @cached_property
    def first(self) -> np.ndarray:
        """The packed row of each one's first token."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def decodes(self) -> int:
        """How many are of one token; they come first."""
        return int((self.counts == 1).sum())

    @cached_property
    def only_decodes(self) -> bool:
        """Whether every chunk is one token that is drawn from."""
        return self.decodes == len(self.counts) and bool(self.samples.all())

    def padded(self, count: int, row: int) -> "Chunks":
        """So many, those beyond its own nobody's: decodes in `row` that hold no KV."""
        lacking = count - len(self.rows)
        nobody = {"starts": NOWHERE, "counts": 1, "kv_starts": -1, "samples": 1, "rows": row}
        return Chunks(
            **{
                name: np.append(getattr(self, name), np.full(lacking, value))
                for name, value in nobody.items()
            }
        )


class BatchBuilder:
    """Builds batches."""

    def __init__(
        self,
        pool: KvPool,
        rows: Rows,
        ring: QueryRing | None,
        importance: ImportanceStore | None,
        impl: str | None,
    ) -> None:
        self._pool = pool
        self._rows = rows
        self._ring = ring
        self._importance = importance
        self._impl = impl
        self.device = pool.keys.device
        self.blocks_for = pool.blocks_for

    def build(self, plan: StepPlan, chunks: Chunks, predicted: dict[int, str]) -> Batch:
        """The tensors of one step.

        Args:
            plan: decodes first, as the scheduler orders it.
            chunks: the plan's; their rows are up to date.
            predicted: rows whose tokens' importance is predicted, and the policies that do it.
        """
        batch = self._batch(move(self._arrays(plan, chunks), self.device), chunks.decodes)
        if predicted:
            writes = self._importance_writes(plan.chunks, chunks.first.tolist(), predicted)
            batch.context.importance_writes = writes
        return batch

    def build_static(
        self, plan: StepPlan, chunks: Chunks, padded: int, width: int, into: torch.Tensor
    ) -> Batch:
        """The batch of a step of decodes alone, on tensors that keep their sizes and places.

        Args:
            plan: as for `build`.
            chunks: only decodes.
            padded: sequences: those of the plan, and nobody's, which write nothing.
            width: blocks in each table, enough for the longest.
            into: uint8 on the device, where all of it goes.
        """
        chunks = chunks.padded(padded, self._rows.padding)
        return self._batch(move(self._arrays(plan, chunks, width), self.device, into), padded)

    def static_buffer(self, padded: int, width: int) -> torch.Tensor:
        """What `build_static` needs for so many sequences and so wide tables."""
        nobody = Chunks.of([]).padded(padded, self._rows.padding)
        size = size_of(self._arrays(StepPlan(), nobody, width))
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def _arrays(
        self, plan: StepPlan, chunks: Chunks, width: int | None = None
    ) -> dict[str, np.ndarray]:
        """Everything about a plan, by name, on the host; with `width`, of always equal sizes."""
        rows, counts, starts = chunks.rows, chunks.counts, chunks.starts
        lengths = (chunks.kv_starts + counts).astype(np.int32)
        first = chunks.first
        if chunks.only_decodes:
            token_rows, positions, entries = rows, starts, chunks.kv_starts
        else:
            within = np.arange(counts.sum()) - np.repeat(first, counts)
            token_rows = np.repeat(rows, counts)
            positions = np.repeat(starts, counts) + within
            entries = np.repeat(chunks.kv_starts, counts) + within
        decodes = chunks.decodes
        ends = np.repeat(starts + counts, counts)
        return {
            "ids": self._ids(plan.chunks, chunks, len(positions)),
            "token_rows": token_rows,
            "positions": positions.astype(np.int32),
            "slots": self._slots(token_rows, entries),
            "decode_tables": self._trimmed(rows[:decodes], lengths[:decodes], width),
            "decode_lengths": lengths[:decodes],
            "chunk_tables": self._trimmed(rows[decodes:], lengths[decodes:], width),
            "chunk_lengths": lengths[decodes:],
            "chunk_starts": (np.append(first, len(positions))[decodes:] - decodes).astype(np.int32),
            **self._ring_arrays(token_rows, positions, ends, everybody=width is not None),
            **self._draw_arrays(chunks),
        }

    def _ids(self, plan: list[Chunk], chunks: Chunks, tokens: int) -> np.ndarray:
        """Token ids [tokens] int64; of decodes, what the device drew in the step before."""
        ids, first = np.full(tokens, DRAWN, dtype=np.int64), chunks.first
        drawn = (self._rows.drawn[chunks.rows] == chunks.starts) & (chunks.counts == 1)
        for i in np.flatnonzero(~drawn).tolist():
            chunk, at = plan[i], int(first[i])
            known = chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]
            ids[at : at + chunk.count] = known
        return ids

    def _draw_arrays(self, chunks: Chunks) -> dict[str, np.ndarray]:
        """Who is drawn from, and how; from here on the rows hold what will be drawn."""
        table, samples = self._rows, chunks.samples.astype(bool)
        rows = chunks.rows[samples]
        positions = (chunks.starts + chunks.counts)[samples]
        table.drawn[rows] = positions
        table.drawn[table.padding] = NOWHERE
        arrays = {
            "tokens": (chunks.first + chunks.counts - 1)[samples],
            "rows": rows,
            "temperatures": table.temperatures[rows],
            "top_ks": table.top_ks[rows],
            "top_ps": table.top_ps[rows],
            "min_ps": table.min_ps[rows],
            "numbers": uniform(table.states[rows], positions),
        }
        penalties = table.penalties[rows]
        return {**arrays, "penalties": penalties} if (penalties != 1.0).any() else arrays

    def _ring_arrays(
        self, rows: np.ndarray, positions: np.ndarray, ends: np.ndarray, everybody: bool
    ) -> dict[str, np.ndarray]:
        """Which queries are stored where; of a chunk longer than the ring only the newest are."""
        watched = self._rows.watched[rows] | everybody
        if self._ring is None or not watched.any():
            return {}
        stored = watched & (positions >= ends - self._ring.size)
        return {
            "ring_tokens": np.flatnonzero(stored),
            "ring_rows": rows[stored],
            "ring_places": positions[stored] % self._ring.size,
        }

    def _batch(self, tensors: dict[str, torch.Tensor], decodes: int) -> Batch:
        ring_write = None
        if "ring_places" in tensors:
            ring_write = RingWrite(
                tensors["ring_tokens"], tensors["ring_rows"], tensors["ring_places"]
            )
        context = ForwardContext(
            pool=self._pool,
            ring=self._ring,
            impl=self._impl,
            ids=tensors["ids"],
            positions=tensors["positions"],
            slots=tensors["slots"],
            decodes=decodes,
            decode_tables=tensors["decode_tables"],
            decode_lengths=tensors["decode_lengths"],
            chunk_tables=tensors["chunk_tables"],
            chunk_lengths=tensors["chunk_lengths"],
            chunk_starts=tensors["chunk_starts"],
            ring_write=ring_write,
            importance=self._importance,
        )
        draws = Draws(**{field.name: tensors[field.name] for field in fields(Draws)})
        penalties = tensors.get("penalties")
        return Batch(tensors["ids"], tensors["token_rows"], draws, penalties, context)

    def _importance_writes(
        self, plan: list[Chunk], first: list[int], predicted: dict[int, str]
    ) -> list[ImportanceWrite]:
        assert self._importance is not None, "nobody predicts, but rows ask for it"
        by_policy: dict[str, list[tuple[int, Chunk]]] = defaultdict(list)
        for at, chunk in zip(first, plan, strict=True):
            row = chunk.sequence.row
            if row is not None and row in predicted:
                by_policy[predicted[row]].append((at, chunk))
        return self._importance.plan_writes(by_policy)

    def _slots(self, rows: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """Slot numbers [tokens] int64 of the given entries of the given rows; nobody's have -1."""
        size = self._pool.block_size
        blocks = self._rows.tables[rows, entries // size].astype(np.int64)
        slots: np.ndarray = np.where(rows == self._rows.padding, -1, blocks * size + entries % size)
        return slots

    def _trimmed(self, rows: np.ndarray, lengths: np.ndarray, width: int | None) -> np.ndarray:
        """Tables [sequences, blocks] int32, as wide as asked for or as the longest needs."""
        blocks = width or self._pool.blocks_for(int(lengths.max(initial=1)))
        return np.ascontiguousarray(self._rows.tables[rows, :blocks])
