"""Float64 answers from plain loops over slots: shares no code and no formulation with `kernels`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def attend(
    query: np.ndarray,
    slots: list[tuple[int, int]],
    head: int,
    cache: dict[str, Any],
    oldest: int | None,
) -> np.ndarray:
    """One query head over (block, offset) slots; positions before `oldest` do not count."""
    logits, seen = [], []
    for block, offset in slots:
        if oldest is not None and cache["slot_positions"][block, head, offset] < oldest:
            continue
        logits.append(float(np.dot(query, cache["keys"][block, head, offset])) * cache["scale"])
        seen.append(cache["values"][block, head, offset])
    if not seen:
        return np.zeros_like(query)
    largest = max(logits)
    weights = [np.exp(logit - largest) for logit in logits]
    result = sum(weight * value for weight, value in zip(weights, seen, strict=True))
    mean: np.ndarray = np.asarray(result) / sum(weights)
    return mean


def rows(inputs: dict[str, Any]) -> list[tuple[int, int]]:
    """For each query row, which sequence it belongs to and how many slots it sees."""
    lengths = inputs["lengths"].tolist()
    if "query_starts" not in inputs:
        return list(enumerate(lengths))
    starts = inputs["query_starts"].tolist()
    result = []
    for sequence, length in enumerate(lengths):
        count = starts[sequence + 1] - starts[sequence]
        result += [(sequence, length - count + i + 1) for i in range(count)]
    padding = inputs["query"].shape[0] - len(result)
    return result + [(0, 0)] * padding


def attention(inputs: dict[str, Any]) -> Tensor:
    """The exact result of `paged_decode` or `paged_prefill`, float64 [rows, heads, head_dim]."""
    plain = {
        name: value.detach().cpu().double().numpy()
        if value.is_floating_point()
        else value.cpu().numpy()
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    }
    for name in ("key", "value"):
        if f"{name}_scales" in plain:
            plain[f"{name}s"] = plain[f"{name}s"] * plain[f"{name}_scales"][:, None, None]
    cache: dict[str, Any] = {**plain, "scale": inputs["scale"]}
    query, window = plain["query"], inputs["window"]
    block_size, group = plain["keys"].shape[2], query.shape[1] // plain["keys"].shape[1]
    out = np.zeros(query.shape)
    for row, (sequence, visible) in enumerate(rows(inputs)):
        table = plain["block_tables"][sequence]
        slots = [(int(table[i // block_size]), i % block_size) for i in range(visible)]
        oldest = None if window is None else int(plain["query_positions"][row]) - window + 1
        for head in range(query.shape[1]):
            out[row, head] = attend(query[row, head], slots, head // group, cache, oldest)
    return torch.from_numpy(out)


def compacted(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """The pools after `compact_kv`, slot by slot from a copy of what they were."""
    names = [
        name
        for name in ("keys", "values", "slot_positions", "slot_mass")
        if inputs[name] is not None
    ]
    before = {name: inputs[name].clone() for name in names}
    after = {name: inputs[name].clone() for name in names}
    block_size = inputs["keys"].shape[3]
    tables, kept = inputs["block_tables"].tolist(), inputs["kept"].tolist()
    for table, layers in zip(tables, kept, strict=True):
        for layer, heads in enumerate(layers):
            for head, sources in enumerate(heads):
                for target, source in enumerate(sources):
                    if target == source:
                        continue
                    new = (layer, table[target // block_size], head, target % block_size)
                    old = (layer, table[source // block_size], head, source % block_size)
                    for name in names:
                        after[name][new] = before[name][old]
    return after


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are equal bit for bit, NaN payloads included."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    integer = integers[left.dtype.itemsize]
    return left.dtype == right.dtype and torch.equal(left.view(integer), right.view(integer))
