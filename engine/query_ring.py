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

    def write(self, layer: int, write: RingWrite, queries: torch.Tensor) -> None:
        """Stores queries [packed tokens, heads, head_dim] of one layer."""
        self._queries[layer].index_put_((write.rows, write.places), queries[write.tokens])

    def read(
        self, rows: list[int], newest: list[int], oldest: list[int], recent: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The recent queries of some sequences.

        Args:
            rows: their rows.
            newest: logical position of each one's newest query.
            oldest: first logical position each one computed itself.
            recent: queries to read, at most the ring's size.

        Returns:
            queries [sequences, layers, heads, recent, head_dim] float32, newest last; their
            positions [sequences, recent] int32, negative where there is no such query.
        """
        layers, all_rows, size, heads, head_dim = self._queries.shape
        positions = np.array(newest)[:, None] - np.arange(recent - 1, -1, -1)
        places = np.array(rows)[:, None] * size + positions % size  # [sequences, recent]
        places = np.arange(layers)[:, None] * (all_rows * size) + places[:, None]
        index = torch.from_numpy(places.reshape(-1)).to(self._device)
        queries = self._queries.view(-1, heads, head_dim).index_select(0, index)
        queries = queries.view(*places.shape, heads, head_dim).transpose(2, 3)
        positions = np.where(positions >= np.array(oldest)[:, None], positions, -1)
        on_device = torch.from_numpy(positions.astype(np.int32)).to(self._device)
        return queries.float(), on_device
