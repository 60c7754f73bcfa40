"""What compact_kv means, in torch."""

import torch
from torch import Tensor


def compact_kv(
    keys: Tensor,
    values: Tensor,
    slot_positions: Tensor,
    block_tables: Tensor,
    kept: Tensor,
    slot_mass: Tensor | None,
) -> None:
    """See `kernels.compact_kv.compact_kv`; raises ValueError for kept slots out of order."""
    pools = [keys, values, slot_positions] + ([] if slot_mass is None else [slot_mass])
    block_size = keys.shape[3]
    capacity = block_tables.shape[1] * block_size
    sequences, layers, kv_heads, count = kept.shape
    target = torch.arange(count, device=kept.device)
    for sequence in range(sequences):
        table = block_tables[sequence].long()
        for layer in range(layers):
            for head in range(kv_heads):
                source = kept[sequence, layer, head].long()
                moved = source != target
                check_order(source[moved], target[moved], capacity)
                old = (layer, table[source[moved] // block_size], head, source[moved] % block_size)
                new = (layer, table[target[moved] // block_size], head, target[moved] % block_size)
                for pool in pools:
                    pool[new] = pool[old]


def check_order(source: Tensor, target: Tensor, capacity: int) -> None:
    """Raises ValueError unless slots `source` ascend, after their `target`, within the table."""
    ascending = bool((source.diff() > 0).all()) and bool((source > target).all())
    if not ascending or bool((source >= capacity).any()):
        raise ValueError(
            f"kept slots {source.tolist()} are to move to {target.tolist()}; they must ascend, lie "
            f"after their targets and be less than {capacity}, the slots of the table"
        )
