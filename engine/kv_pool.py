"""The paged KV pool: tensors and nothing else. Who owns which block is the scheduler's business."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from kernels.checks import FP8


@dataclass(frozen=True)
class KvShape:
    """One entry of the cache, as the model's attention makes it, and the state it is made from."""

    layers: int
    heads: int  # query heads
    kv_heads: int
    head_dim: int
    hidden_size: int
    dtype: torch.dtype
    kv_dtype: torch.dtype | None = None  # what keys and values are stored as; None: `dtype`

    @property
    def stored(self) -> torch.dtype:
        """The type of keys and values in the pool."""
        return self.kv_dtype or self.dtype

    @property
    def bytes_per_token(self) -> int:
        """Keys and values over all layers and heads."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.stored.itemsize

    @property
    def pool_bytes_per_token(self) -> int:
        """With the position (int32) and the received attention (float32) of each slot."""
        return self.bytes_per_token + 8 * self.layers * self.kv_heads

    @property
    def dtype_name(self) -> str:
        """The model's type, and that of the cache where it is another one."""
        names = [str(dtype).removeprefix("torch.") for dtype in (self.dtype, self.stored)]
        return names[0] if self.stored is self.dtype else f"{names[0]}, KV {names[1]}"


class LayerKv(NamedTuple):
    """One layer of the pool, as views."""

    keys: torch.Tensor
    values: torch.Tensor
    positions: torch.Tensor
    mass: torch.Tensor
    scales: dict[str, torch.Tensor | None]  # `key_scales` and `value_scales`, as kernels take them


class KvPool:
    """Keys, values, logical positions and received attention of every slot of every block.

    An fp8 pool has `key_scales` and `value_scales`, float32 [layers, kv_heads], by which what it
    holds is multiplied; 1 until `engine.kv_scales` has measured them. A float pool has None.
    """

    def __init__(self, shape: KvShape, blocks: int, block_size: int, device: torch.device) -> None:
        self.shape = shape
        self.blocks = blocks
        self.block_size = block_size
        slots = (shape.layers, blocks, shape.kv_heads, block_size)
        self.keys = torch.zeros(*slots, shape.head_dim, dtype=shape.stored, device=device)
        self.values = torch.zeros(*slots, shape.head_dim, dtype=shape.stored, device=device)
        self.key_scales = self.value_scales = None
        if shape.stored is FP8:
            self.key_scales = torch.ones(shape.layers, shape.kv_heads, device=device)
            self.value_scales = torch.ones(shape.layers, shape.kv_heads, device=device)
        self.positions = torch.zeros(slots, dtype=torch.int32, device=device)
        self.mass = torch.zeros(slots, dtype=torch.float32, device=device)
        self.layers = [self._layer(index) for index in range(shape.layers)]
        layer = torch.arange(shape.layers, device=device)[:, None, None] * blocks
        head = torch.arange(shape.kv_heads, device=device)[:, None]
        self._first_runs = layer * shape.kv_heads + head  # [layers, kv_heads, 1], of block 0

    def _layer(self, index: int) -> LayerKv:
        scales = {"key_scales": self.key_scales, "value_scales": self.value_scales}
        own = {name: None if scale is None else scale[index] for name, scale in scales.items()}
        keys, values = self.keys[index], self.values[index]
        return LayerKv(keys, values, self.positions[index], self.mass[index], own)

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
            [sequences, layers, kv_heads, tokens, ...], a copy; fp8 keys and values as float32.
        """
        flat = pool.view(-1, *pool.shape[3:])  # [runs, block_size, ...]
        entries = flat.index_select(0, runs.view(-1)).view(*runs.shape, *pool.shape[3:])
        entries = entries.flatten(3, 4)[:, :, :, :tokens]
        if pool.dtype is not FP8:
            return entries
        scales = self.key_scales if pool is self.keys else self.value_scales
        assert scales is not None, "an fp8 pool without scales"
        return entries.float() * scales[:, :, None, None]

    def scatter_mass(self, tables: torch.Tensor, mass: torch.Tensor, first_block: int) -> None:
        """Writes `mass` ([sequences, layers, kv_heads, tokens]) back, from a block on.

        Blocks before `first_block` may be shared and hold pinned entries, which nobody ranks.
        """
        blocks = tables.shape[1]
        padding = blocks * self.block_size - mass.shape[-1]
        padded = torch.nn.functional.pad(mass, (0, padding))
        padded = padded.view(*mass.shape[:3], blocks, self.block_size)[:, :, :, first_block:]
        self.mass[:, tables[:, first_block:]] = padded.movedim(2, 3).movedim(0, 1)
