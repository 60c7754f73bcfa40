"""The last queries of every running sequence, for policies that rank by attention.

Query of logical position p sits at p modulo the ring's size. Memory: rows x size x layers x heads x
head_dim, so the ring is small and its size a server setting.
"""

from dataclasses import dataclass

import numpy as np
import torch

from engine.kv_pool import KvShape


@dataclass(frozen=True)
class RingWrite:
    """Which packed tokens of a step go where; the same in every layer."""

    tokens: torch.Tensor  # [written] int64, rows of the packed batch
    rows: torch.Tensor  # [written] int64
    places: torch.Tensor  # [written] int64


class QueryRing:
    """Queries [layers, rows, size, heads, head_dim], float32 or the model's type."""

    def __init__(self, shape: KvShape, rows: int, size: int, device: torch.device) -> None:
        self.size = size
        self._device = device
        self._queries = torch.zeros(
            shape.layers, rows, size, shape.heads, shape.head_dim, dtype=shape.dtype, device=device
        )

    def plan_write(self, spans: list[tuple[int, int, int, int]]) -> RingWrite | None:
        """Where a step's queries go; of a chunk longer than the ring only the newest are kept.

        Args:
            spans: (first packed token, row, first logical position, count) per sequence.
        """
        if not spans:
            return None
        kept = [(max(count - self.size, 0), count) for _, _, _, count in spans]
        tokens = [
            first + i for (first, _, _, _), k in zip(spans, kept, strict=True) for i in range(*k)
        ]
        rows = [row for (_, row, _, _), k in zip(spans, kept, strict=True) for _ in range(*k)]
        places = [
            (start + i) % self.size
            for (_, _, start, _), k in zip(spans, kept, strict=True)
            for i in range(*k)
        ]
        arrays = np.array([tokens, rows, places], dtype=np.int64)
        on_device = torch.from_numpy(arrays).to(self._device)
        return RingWrite(on_device[0], on_device[1], on_device[2])

    def write(self, layer: int, write: RingWrite, queries: torch.Tensor) -> None:
        """Stores queries [packed tokens, heads, head_dim] of one layer."""
        self._queries[layer].index_put_((write.rows, write.places), queries[write.tokens])

    def read(
        self, rows: list[int], newest: list[int], oldest: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The recent queries of some sequences.

        Args:
            rows: their rows.
            newest: logical position of each one's newest query.
            oldest: first logical position each one computed itself.

        Returns:
            queries [sequences, layers, heads, size, head_dim] float32, newest last; their positions
            [sequences, size] int32, negative where there is no such query.
        """
        back = np.arange(self.size - 1, -1, -1)
        positions = np.array(newest)[:, None] - back  # [sequences, size]
        places = torch.from_numpy(positions % self.size).to(self._device)
        row_index = torch.tensor(rows, device=self._device)[:, None]
        queries = self._queries[:, row_index, places]  # [layers, sequences, size, heads, dim]
        positions = np.where(positions >= np.array(oldest)[:, None], positions, -1)
        on_device = torch.from_numpy(positions.astype(np.int32)).to(self._device)
        return queries.permute(1, 0, 3, 2, 4).float(), on_device
