"""Importance of tokens, predicted once from the last hidden state while the step computes them.

For policies that learned it (`EvictionPolicy.predict`). One number for each running sequence and
logical position, so that compaction moves nothing. Tokens of the prompt are not predicted; from the
end of thinking on every token is `KEPT_FIRST`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.eviction import POLICIES
from engine.eviction.base import KEPT_FIRST
from scheduler.plan import Chunk

NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class ImportanceWrite:
    """Which packed tokens of a step are predicted, and where that goes."""

    policy: str
    tokens: torch.Tensor  # [written] int64, rows of the packed batch
    rows: torch.Tensor  # [written] int64
    positions: torch.Tensor  # [written] int64, logical
    fresh: torch.Tensor  # [..] int64, rows whose first thinking token is among them


class ImportanceStore:
    """Predicted importance [rows, positions] float32, and where each row's thinking ended."""

    def __init__(
        self,
        artifacts: Mapping[str, Mapping[str, torch.Tensor]],
        rows: int,
        positions: int,
        device: torch.device,
    ) -> None:
        """`artifacts` by policy: what `predict` reads, and `end_ids`, the tokens that end thinking.

        Memory is taken when a request first needs it.
        """
        self._artifacts = artifacts
        self._shape = (rows, positions)
        self._device = device
        self._tensors: tuple[torch.Tensor, torch.Tensor] | None = None

    def plan_writes(
        self, chunks: Mapping[str, Sequence[tuple[int, Chunk]]]
    ) -> list[ImportanceWrite]:
        """What a step predicts.

        Args:
            chunks: by policy, each with the packed row of its first token.
        """
        writes = [self._plan(policy, placed) for policy, placed in chunks.items()]
        return [write for write in writes if len(write.tokens)]

    def write(self, write: ImportanceWrite, hidden: torch.Tensor, ids: torch.Tensor) -> None:
        """Predicts from `hidden`, [packed tokens, hidden size] in the model's type.

        `ids` [packed tokens] int64 are the tokens themselves.
        """
        scores, ended = self._allocated()
        artifact = self._artifacts[write.policy]
        ended.index_fill_(0, write.fresh, NEVER)
        ends = (ids[write.tokens, None] == artifact["end_ids"]).any(dim=1)
        ended.scatter_reduce_(0, write.rows, write.positions.where(ends, NEVER), "amin")
        predicted = POLICIES[write.policy].predict(artifact, hidden[write.tokens])
        answer = write.positions >= ended[write.rows]
        scores[write.rows, write.positions] = predicted.float().masked_fill(answer, KEPT_FIRST)

    def read(self, rows: Sequence[int], positions: torch.Tensor) -> torch.Tensor:
        """Importance of the entries at `positions` ([sequences, ...] int32), in their shape."""
        if self._tensors is None:  # nothing was predicted yet
            return torch.zeros(positions.shape, device=self._device)
        scores, _ = self._tensors
        own = torch.tensor(rows, device=self._device)
        return scores[own.view(-1, *[1] * (positions.dim() - 1)), positions.long()]

    def _plan(self, policy: str, placed: Sequence[tuple[int, Chunk]]) -> ImportanceWrite:
        columns, fresh = [], []
        for first, chunk in placed:
            sequence = chunk.sequence
            asked = sequence.prompt_tokens
            skipped = max(asked - chunk.start, 0)  # the prompt's own
            columns += [
                (first + i, sequence.row, chunk.start + i) for i in range(skipped, chunk.count)
            ]
            if chunk.start <= asked < chunk.start + chunk.count:
                fresh.append(sequence.row)
        arrays = np.array(columns, dtype=np.int64).reshape(-1, 3).T.copy()
        tokens, rows, positions = torch.from_numpy(arrays).to(self._device)
        begins = torch.from_numpy(np.array(fresh, dtype=np.int64)).to(self._device)
        return ImportanceWrite(policy, tokens, rows, positions, begins)

    def _allocated(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._tensors is None:
            scores = torch.zeros(self._shape, device=self._device)
            ended = torch.full(self._shape[:1], NEVER, dtype=torch.int64, device=self._device)
            self._tensors = scores, ended
        return self._tensors
