"""The paged KV pool: tensors and nothing else. Who owns which block is the scheduler's business."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class KvShape:
    """One entry of the cache, as the model's attention makes it, and the state it is made from."""

    layers: int
    heads: int  # query heads
    kv_heads: int
    head_dim: int
    hidden_size: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        """Keys and values over all layers and heads; bookkeeping (8 bytes a slot) left out."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


class KvPool:
    """Keys, values, logical positions and received attention of every slot of every block."""

    def __init__(self, shape: KvShape, blocks: int, block_size: int, device: torch.device) -> None:
        self.shape = shape
        self.blocks = blocks
        self.block_size = block_size
        slots = (shape.layers, blocks, shape.kv_heads, block_size)
        self.keys = torch.zeros(*slots, shape.head_dim, dtype=shape.dtype, device=device)
        self.values = torch.zeros(*slots, shape.head_dim, dtype=shape.dtype, device=device)
        self.positions = torch.zeros(slots, dtype=torch.int32, device=device)
        self.mass = torch.zeros(slots, dtype=torch.float32, device=device)
        layer = torch.arange(shape.layers, device=device)[:, None, None] * blocks
        head = torch.arange(shape.kv_heads, device=device)[:, None]
        self._first_runs = layer * shape.kv_heads + head  # [layers, kv_heads, 1], of block 0

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def runs(self, tables: torch.Tensor) -> torch.Tensor:
        """Where the blocks of some sequences are in each layer and head, for `gather`.

        Args:
            tables: [sequences, blocks] int64.

        Returns:
            [sequences, layers, kv_heads, blocks] int64, counted in runs of block_size slots.
        """
        return tables[:, None, None] * self.shape.kv_heads + self._first_runs

    def gather(self, pool: torch.Tensor, runs: torch.Tensor, tokens: int) -> torch.Tensor:
        """Entries of some sequences in cache order.

        Args:
            pool: one of keys, values, positions, mass.
            runs: of their tables, with enough blocks for `tokens`.
            tokens: entries each sequence holds.

        Returns:
            [sequences, layers, kv_heads, tokens, ...], a copy.
        """
        flat = pool.view(-1, *pool.shape[3:])  # [runs, block_size, ...]
        entries = flat.index_select(0, runs.view(-1)).view(*runs.shape, *pool.shape[3:])
        return entries.flatten(3, 4)[:, :, :, :tokens]

    def scatter_mass(self, tables: torch.Tensor, mass: torch.Tensor, first_block: int) -> None:
        """Writes `mass` ([sequences, layers, kv_heads, tokens]) back, from a block on.

        Blocks before `first_block` may be shared and hold pinned entries, which nobody ranks.
        """
        blocks = tables.shape[1]
        padding = blocks * self.block_size - mass.shape[-1]
        padded = torch.nn.functional.pad(mass, (0, padding))
        padded = padded.view(*mass.shape[:3], blocks, self.block_size)[:, :, :, first_block:]
        self.mass[:, tables[:, first_block:]] = padded.movedim(2, 3).movedim(0, 1)
