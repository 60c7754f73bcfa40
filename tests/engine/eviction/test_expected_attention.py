import cmath
import math
from collections.abc import Callable
from functools import cache

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.expected_attention import ExpectedAttention
from tests.engine.eviction.caches import (
    GROUPS,
    group_heads,
    present_queries,
    random_view,
    score_by_loops,
    softmax,
)

Vector = list[float]


def _rotated(vector: Vector, angles: list[float]) -> Vector:
    """Each (i, i + half) turned by its angle, written out."""
    half = len(angles)
    turned = [complex(vector[i], vector[i + half]) * cmath.exp(1j * angles[i]) for i in range(half)]
    return [z.real for z in turned] + [z.imag for z in turned]


@cache  # all heads of a round ask for the same
def _mean_rotation(frequencies: tuple[float, ...], first: int, count: int) -> list[Vector]:
    """Columns of the mean over `count` positions of the rotary matrix."""
    size = 2 * len(frequencies)
    units = [[float(i == j) for j in range(size)] for i in range(size)]
    columns = [[0.0] * size for _ in range(size)]
    for position in range(first, first + count):
        angles = [position * frequency for frequency in frequencies]
        for column, unit in zip(columns, units, strict=True):
            for i, value in enumerate(_rotated(unit, angles)):
                column[i] += value / count
    return columns


def _times(columns: list[Vector], vector: Vector) -> Vector:
    rows = range(len(columns[0]))
    return [sum(c[i] * x for c, x in zip(columns, vector, strict=True)) for i in rows]


def _dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def formula(policy: ExpectedAttention) -> Callable[..., list[float]]:
    def score(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
        assert view.queries is not None
        assert view.query_positions is not None
        assert view.frequencies is not None
        keys = view.keys[sequence, layer, kv_head].double().tolist()
        values = view.values[sequence, layer, kv_head].double().tolist()
        frequencies = view.frequencies[layer].tolist()
        now = int(view.positions[sequence, layer, kv_head, -1]) + 1
        rotation = _mean_rotation(tuple(frequencies), now, policy.future_tokens)
        size = len(keys[0])
        heads = group_heads(view, kv_head)
        mean_attention = [0.0] * len(keys)
        for head in heads:
            plain = []
            for query in present_queries(view, sequence, policy.window):
                asked_at = int(view.query_positions[sequence, query])
                vector = view.queries[sequence, layer, head, query].double().tolist()
                plain.append(_rotated(vector, [-asked_at * frequency for frequency in frequencies]))
            count = max(len(plain), 1)
            mean = [sum(query[i] for query in plain) / count for i in range(size)]
            covariance = [
                [
                    sum((query[i] - mean[i]) * (query[j] - mean[j]) for query in plain) / count
                    for j in range(size)
                ]
                for i in range(size)
            ]
            # R mu, and the columns of R Sigma, whose rows turned by R again are R Sigma R^T
            mean = _times(rotation, mean)
            half_way = [_times(rotation, row) for row in covariance]  # Sigma is symmetric
            spread = [
                _times(rotation, [row[i] for row in half_way]) for i in range(size)
            ]  # column i of R Sigma R^T
            logits = []
            for key in keys:
                logit = _dot(mean, key) / math.sqrt(size)
                if policy.covariance:
                    logit += _dot(key, _times(spread, key)) / (2 * size)
                logits.append(logit)
            for slot, probability in enumerate(softmax(logits)):
                mean_attention[slot] += probability / len(heads)
        lengths = [math.hypot(*value) for value in values]
        return [
            (attention + policy.epsilon) * length
            for attention, length in zip(mean_attention, lengths, strict=True)
        ]

    return score


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    "policy",
    [
        ExpectedAttention(window=8, future_tokens=37),
        ExpectedAttention(window=5, future_tokens=1),
        ExpectedAttention(window=3, future_tokens=6, covariance=0),
        ExpectedAttention(window=32, future_tokens=20, epsilon=0.3),
    ],
)
def test_follows_the_formula(group: int, policy: ExpectedAttention) -> None:
    view = random_view(group=group, missing=3)
    expected = score_by_loops(view, formula(policy))
    torch.testing.assert_close(policy.score(view).double(), expected, atol=1e-5, rtol=1e-4)


def test_nobody_asking_leaves_the_lengths_of_the_values() -> None:
    view = random_view(missing=8)  # the second sequence has no query
    scores = ExpectedAttention().score(view)[1]
    torch.testing.assert_close(scores, view.values[1].norm(dim=-1) / view.keys.shape[3])
