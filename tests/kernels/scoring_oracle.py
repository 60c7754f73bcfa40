"""Float64 scores from plain loops over entries, straight from the formulas of the papers."""

import cmath
import math
from typing import Any

import torch
from torch import Tensor


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(logits: list[float]) -> list[float]:
    """Of logits that may be -inf; zeros if all are."""
    top = max(logits)
    if top == -math.inf:
        return [0.0] * len(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def cosine(a: list[float], b: list[float]) -> float:
    """0 if one of them is zero."""
    norms = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    return dot(a, b) / norms if norms else 0.0


def attention(inputs: dict[str, Any]) -> Tensor:
    """The exact result of `window_attention`."""
    keys, positions = inputs["keys"].double(), inputs["positions"]
    group = inputs["queries"].shape[2] // keys.shape[2]
    out = torch.zeros(keys.shape[:4], dtype=torch.float64)
    for sequence, layer, kv_head in torch.cartesian_prod(*map(torch.arange, keys.shape[:3])):
        cache = keys[sequence, layer, kv_head].tolist()
        at = positions[sequence, layer, kv_head].tolist()
        rows = []  # one for each query that exists
        for query, asked_at in enumerate(inputs["query_positions"][sequence].tolist()):
            if asked_at < 0:
                continue
            heads = []
            for head in range(kv_head * group, (kv_head + 1) * group):
                own = inputs["queries"][sequence, layer, head, query].double().tolist()
                seen = [position <= asked_at for position in at]
                heads.append(
                    [
                        dot(own, key) * inputs["scale"] if see else -math.inf
                        for key, see in zip(cache, seen, strict=True)
                    ]
                )
            if inputs["over_heads"] == "strongest":
                rows.append(softmax([max(logits) for logits in zip(*heads, strict=True)]))
            else:
                each = [softmax(logits) for logits in heads]
                rows.append([sum(column) / group for column in zip(*each, strict=True)])
        over = {"sum": sum, "max": max, "mean": lambda x: sum(x) / len(x)}[inputs["over_queries"]]
        if rows:
            scores = [over(column) for column in zip(*rows, strict=True)]
            out[sequence, layer, kv_head] = torch.tensor(scores, dtype=torch.float64)
    return out


def redundancy(inputs: dict[str, Any]) -> Tensor:
    """The exact result of `key_redundancy`."""
    threshold = inputs["excused_above"]
    rows = []
    for cache in inputs["keys"].double().tolist():
        alike = [[cosine(a, b) for b in cache] for a in cache]
        tokens = len(cache)
        if threshold is None:
            rows.append([max([*row[i + 1 :], 0.0]) for i, row in enumerate(alike)])
            continue
        for i, row in enumerate(alike):
            row[i] = 0.0
            near = [j for j in range(tokens) if row[j] > threshold]
            if near:
                row[near[-1]] = 0.0
        rows.append([sum(row[j] for row in alike) / tokens for j in range(tokens)])
    return torch.tensor(rows, dtype=torch.float64)


def trigonometric(inputs: dict[str, Any], positions: Tensor) -> Tensor:
    """The exact result of `trigonometric_score`: keys turned back, and the formula as printed."""
    keys = inputs["keys"].double()
    layers, heads, _ = inputs["query_mean"].shape
    group = heads // keys.shape[2]
    out = torch.zeros(len(keys), layers, heads, keys.shape[3], dtype=torch.float64)
    for sequence, layer, head in torch.cartesian_prod(*map(torch.arange, out.shape[:3])):
        now = int(inputs["next_positions"][sequence])
        mean = numbers(inputs["query_mean"][layer, head])
        length = inputs["query_length"][layer, head].tolist()
        turning = inputs["frequencies"][layer].tolist()
        own = keys[sequence, layer, head // group]
        at = positions[sequence, layer, head // group].tolist()
        for slot, position in enumerate(at):
            score = 0.0
            for c, a, w, k in zip(mean, length, turning, numbers(own[slot]), strict=True):
                key = k * cmath.exp(-1j * w * position)
                phase = cmath.phase(c * key.conjugate())
                turns = [math.cos(w * (now - position + (1 << i)) + phase) for i in range(17)]
                score += abs(c) * abs(key) * sum(turns) / 17 + (a - abs(c)) * abs(key)
            out[sequence, layer, head, slot] = score
    return out


def numbers(vector: Tensor) -> list[complex]:
    """The complex numbers whose halves a vector holds."""
    half = len(vector) // 2
    values = vector.double().tolist()
    return [complex(values[i], values[i + half]) for i in range(half)]
