"""What the engine keeps of each running sequence between steps, in arrays by row.

A row is written when a sequence comes to it and when its block table changes; a step reads all of
its rows at once. Row `rows` is nobody's: padding uses it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from engine.sampler import state_of
from scheduler.plan import Chunk
from scheduler.request import Sequence

NOWHERE = -1


class Traits(NamedTuple):
    """What a sequence's eviction policy needs of every step."""

    watched: bool  # its queries go to the ring
    counted: bool  # and what they attend to is counted
    predictor: str | None  # the policy that predicts the importance of its tokens


class Rows:
    """Block tables, sampling settings, and which tokens the device holds."""

    def __init__(self, rows: int, max_blocks: int, traits: Callable[[Sequence], Traits]) -> None:
        self.padding = rows
        self.tables = np.zeros((rows + 1, max_blocks), dtype=np.int32)
        self.temperatures = np.zeros(rows + 1, dtype=np.float32)
        self.top_ks = np.zeros(rows + 1, dtype=np.int32)
        self.top_ps = np.ones(rows + 1, dtype=np.float32)
        self.min_ps = np.zeros(rows + 1, dtype=np.float32)
        self.penalties = np.ones(rows + 1, dtype=np.float32)
        self.states = np.zeros(rows + 1, dtype=np.uint64)  # of the draws' numbers
        self.logprobs = np.full(rows + 1, NOWHERE, dtype=np.int32)  # alternatives asked for
        self.watched = np.zeros(rows + 1, dtype=bool)
        self.counted = np.zeros(rows + 1, dtype=bool)
        self.predictors: dict[int, str] = {}  # by row
        # Logical position of the token that the device drew last, until another takes the row.
        self.drawn = np.full(rows + 1, NOWHERE, dtype=np.int64)
        self._tenants: list[Sequence | None] = [None] * (rows + 1)
        self._traits = traits

    def update(self, chunks: list[Chunk]) -> list[Chunk]:
        """Brings the rows of a plan up to date; returns the chunks of those who came."""
        came, tables, tenants = [], self.tables, self._tenants
        for chunk in chunks:
            sequence = chunk.sequence
            row, blocks, clean = sequence.row, sequence.blocks, sequence.table_clean
            assert row is not None, "a plan runs a sequence that has no row"
            if tenants[row] is not sequence:
                self._move_in(row, sequence)
                came.append(chunk)
            if clean < len(blocks):
                tables[row, clean : len(blocks)] = blocks[clean:]
                sequence.table_clean = len(blocks)
        return came

    def _move_in(self, row: int, sequence: Sequence) -> None:
        sampling = sequence.request.sampling
        self._tenants[row] = sequence
        self.temperatures[row] = sampling.temperature
        self.top_ks[row] = min(sampling.top_k, np.iinfo(np.int32).max)
        self.top_ps[row] = sampling.top_p
        self.min_ps[row] = sampling.min_p
        self.penalties[row] = sampling.repetition_penalty
        self.states[row] = state_of(sampling.seed, sequence.output)
        self.logprobs[row] = NOWHERE if sampling.logprobs is None else sampling.logprobs
        traits = self._traits(sequence)
        self.watched[row], self.counted[row] = traits.watched, traits.counted
        self.predictors.pop(row, None)
        if traits.predictor is not None:
            self.predictors[row] = traits.predictor
        self.drawn[row] = NOWHERE
