"""The least that each operation must move: all it needs read once, all results written once.

An operation is benchmarked by having a folder in `kernels/`, BENCHMARKS in its `cases.py`, and an
entry in MUST_MOVE here. Bytes in between, such as partial results of a split, are not counted.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Any]  # keyword arguments of the operation, as its cases make them


def size(*values: Any) -> int:
    """Bytes of the tensors among some values; a broadcast or strided view counts each element."""
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))


def inputs_and_result(inputs: Inputs, result: Any) -> int:
    """Of an operation that reads all it is given and returns what it writes."""
    written = result if isinstance(result, tuple) else (result,)
    return size(*inputs.values(), *written)


def paged_attention(inputs: Inputs, result: Any) -> int:
    """Queries and outputs, and each sequence's keys, values and table entries once.

    With a window a decode needs the newest `window` entries, a chunk of q queries q - 1 more.
    """
    keys, lengths = inputs["keys"], inputs["lengths"].long()
    _, kv_heads, block_size, head_dim = keys.shape
    entries = lengths
    if inputs["window"] is not None:
        starts = inputs.get("query_starts")
        chunks = torch.ones_like(lengths) if starts is None else starts.diff().long()
        entries = torch.minimum(lengths, inputs["window"] + chunks - 1)
    cache = int(entries.sum()) * 2 * kv_heads * head_dim * keys.element_size()
    tables = int((-(-entries // block_size)).sum()) * inputs["block_tables"].element_size()
    return size(inputs["query"], result, inputs["lengths"]) + cache + tables


def stored(inputs: Inputs) -> int:
    """Keys and values written to the pool with a position (and mass) per head, but for padding."""
    _, kv_heads, _, head_dim = inputs["keys"].shape
    bookkeeping = 4 if inputs["slot_mass"] is None else 8
    slot = 2 * head_dim * inputs["keys"].element_size() + bookkeeping
    return int((inputs["slots"] >= 0).sum()) * kv_heads * slot


def write_kv(inputs: Inputs, _: Any) -> int:
    """Keys, values and positions read, but for padding, and stored."""
    written = int((inputs["slots"] >= 0).sum())
    _, kv_heads, head_dim = inputs["key"].shape
    token = 2 * kv_heads * head_dim * inputs["key"].element_size() + 4
    return size(inputs["slots"]) + written * token + stored(inputs)


def rotary_write(inputs: Inputs, result: Any) -> int:
    """The merged projection and the angles read, queries returned, keys and values stored."""
    read = ("qkv", "cos", "sin", "positions", "slots", "query_norm", "key_norm")
    return size(*(inputs[name] for name in read), result) + stored(inputs)


def rms_norm(inputs: Inputs, result: Any) -> int:
    """All it is given read; the residual, if any, written too."""
    return inputs_and_result(inputs, result) + size(inputs["residual"])


def compact_kv(inputs: Inputs, _: Any) -> int:
    """The list of kept slots read; each slot that moves read and written."""
    kept, keys = inputs["kept"], inputs["keys"]
    moved = int((kept != torch.arange(kept.shape[-1], device=kept.device)).sum())
    slot = 2 * keys.shape[-1] * keys.element_size() + (4 if inputs["slot_mass"] is None else 8)
    return size(kept) + moved * 2 * slot


MUST_MOVE: dict[str, Callable[[Inputs, Any], int]] = {
    "compact_kv": compact_kv,
    "key_redundancy": inputs_and_result,
    "paged_decode": paged_attention,
    "paged_prefill": paged_attention,
    "rms_norm": rms_norm,
    "rotary_write": rotary_write,
    "sample": inputs_and_result,
    "select_entries": inputs_and_result,
    "silu_mul": inputs_and_result,
    "trigonometric_score": inputs_and_result,
    "window_attention": inputs_and_result,
    "write_kv": write_kv,
}
