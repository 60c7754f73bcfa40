"""paged_prefill on the CPU: every token is a decode row that sees its own number of slots."""

import numpy as np
from torch import Tensor, from_numpy

from kernels.paged_decode.cpu import attend_rows


def paged_prefill(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    block_tables: Tensor,
    lengths: Tensor,
    query_starts: Tensor,
    scale: float,
    window: int | None,
    slot_positions: Tensor | None,
    query_positions: Tensor | None,
    key_scales: Tensor | None,
    value_scales: Tensor | None,
) -> Tensor:
    """See `kernels.paged_prefill.paged_prefill`; float32 on the CPU, its pool float32 or fp8."""
    tokens = query.shape[0]
    starts = query_starts.numpy()
    counts = np.diff(starts)
    row_tables = np.zeros(tokens, np.int32)
    visible = np.zeros(tokens, np.int32)  # padding rows keep 0 and become zeros
    real = starts[-1]
    row_tables[:real] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    # row r of a sequence that ends before row `end` sees length - (end - 1 - r) slots
    visible[:real] = np.repeat(lengths.numpy() - starts[1:] + 1, counts) + np.arange(real)
    return attend_rows(
        query,
        keys,
        values,
        block_tables,
        from_numpy(row_tables),
        from_numpy(visible),
        scale,
        window,
        slot_positions,
        query_positions,
        key_scales,
        value_scales,
    )
