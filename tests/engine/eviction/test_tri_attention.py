import math
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from engine.eviction.base import CacheView
from engine.eviction.tri_attention import TriAttention
from engine.kv_pool import KvShape
from tests.engine.eviction.caches import (
    GROUPS,
    group_heads,
    heads_of,
    random_view,
    score_by_loops,
)

Formula = Callable[[CacheView, int, int, int], list[float]]
OFFSETS = [2**power for power in range(17)]
SHAPE = KvShape(layers=2, heads=6, kv_heads=3, head_dim=8, hidden_size=16, dtype=torch.float32)


def _head_scores(
    view: CacheView, sequence: int, layer: int, kv_head: int, head: int
) -> list[float]:
    """s of one query head: the formula over the unrotated key, one offset after the other."""
    assert view.frequencies is not None
    assert view.artifact is not None
    frequencies = view.frequencies[layer].tolist()
    half = len(frequencies)
    mean = view.artifact["q_mean"][layer, head].double().tolist()
    length = view.artifact["q_abs"][layer, head].double().tolist()
    positions = view.positions[sequence, layer, kv_head].tolist()
    now = positions[-1] + 1
    scores = []
    for slot, position in enumerate(positions):
        rotated = view.keys[sequence, layer, kv_head, slot].double().tolist()
        score = 0.0
        for f, frequency in enumerate(frequencies):
            cosine, sine = math.cos(position * frequency), math.sin(position * frequency)
            key = complex(
                rotated[f] * cosine + rotated[f + half] * sine,
                rotated[f + half] * cosine - rotated[f] * sine,
            )
            centre = complex(mean[f], mean[f + half])
            relative = centre * key.conjugate()
            phase = math.atan2(relative.imag, relative.real)
            waves = [math.cos(frequency * (now - position + offset) + phase) for offset in OFFSETS]
            score += abs(centre) * abs(key) * sum(waves) / len(waves)
            score += (length[f] - abs(centre)) * abs(key)
        scores.append(score)
    return scores


def _normalised(view: CacheView, sequence: int, layer: int, kv_head: int, head: int) -> list[float]:
    scores = _head_scores(view, sequence, layer, kv_head, head)
    prompt = int(view.prompt_tokens[sequence])
    positions = view.positions[sequence, layer, kv_head].tolist()
    decoded = [s for s, position in zip(scores, positions, strict=True) if position >= prompt]
    decoded = decoded or scores
    mean, deviation = statistics.fmean(decoded), statistics.pstdev(decoded)
    return [(score - mean) / max(deviation, 1e-6) for score in scores]


def _best(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
    """Of each slot the largest of the group's heads."""
    heads = group_heads(view, kv_head)
    rows = [_normalised(view, sequence, layer, kv_head, head) for head in heads]
    return [max(column) for column in zip(*rows, strict=True)]


def formula(selection: int) -> Formula:
    """Remembers one view: every layer and head of it asks for what all of them score."""
    seen: list[CacheView] = []
    known: dict[tuple[int, int, int], list[float]] = {}

    def best(view: CacheView, *head: int) -> list[float]:
        if not seen or seen[0] is not view:
            seen[:] = [view]
            known.clear()
        if head not in known:
            known[head] = _best(view, *head)  # type: ignore[index]
        return known[head]  # type: ignore[index]

    def score(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
        layers, kv_heads = range(view.keys.shape[1]), range(view.keys.shape[2])
        if selection == 2:
            return best(view, sequence, layer, kv_head)
        if selection == 0:
            rows = [best(view, sequence, other, kv_head) for other in layers]
            return [statistics.fmean(column) for column in zip(*rows, strict=True)]
        rows = [best(view, sequence, other, head) for other in layers for head in kv_heads]
        return [max(column) for column in zip(*rows, strict=True)]

    return score


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("selection", [0, 1, 2])
def test_follows_the_formula(group: int, selection: int) -> None:
    view = random_view(group=group)
    actual = TriAttention(selection=selection).score(view)
    torch.testing.assert_close(
        actual.double(), score_by_loops(view, formula(selection)), atol=1e-4, rtol=1e-4
    )


def test_far_positions_are_as_exact_as_near_ones() -> None:
    view = random_view(tokens=12)
    far = replace(
        view, positions=view.positions + 100_000, prompt_tokens=view.prompt_tokens + 100_000
    )
    actual = TriAttention(selection=2).score(far)
    torch.testing.assert_close(
        actual.double(), score_by_loops(far, formula(2)), atol=1e-4, rtol=1e-4
    )


def test_only_decoded_entries_set_mean_and_deviation() -> None:
    view = random_view()
    prompt = view.positions < view.prompt_tokens[:, None, None, None]
    louder = replace(view, keys=view.keys.where(~prompt[..., None], 50 * view.keys))
    policy = TriAttention(selection=2)
    torch.testing.assert_close(policy.score(louder)[~prompt], policy.score(view)[~prompt])
    assert not torch.allclose(policy.score(louder)[prompt], policy.score(view)[prompt])


def test_where_nothing_is_decoded_all_entries_set_them() -> None:
    view = random_view()
    prompt_only = replace(view, prompt_tokens=view.prompt_tokens + 10_000)
    actual = TriAttention(selection=2).score(prompt_only)
    torch.testing.assert_close(
        actual.double(), score_by_loops(prompt_only, formula(2)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("selection", "sets"), [(0, 3), (1, 1), (2, 6)])
def test_how_many_sets_are_kept(selection: int, sets: int) -> None:
    view = random_view(sequences=1, tokens=80)
    none = torch.zeros(1, dtype=torch.int64)
    kept = TriAttention(selection=selection).select(view, 20, pinned=none, recent=none)[0]
    assert len({tuple(head.tolist()) for head in kept.flatten(0, 1)}) == sets
    if selection == 0:
        assert torch.equal(kept[0], kept[1]), "layers share"


def test_the_best_of_all_are_the_best_of_what_any_head_would_keep() -> None:
    """The authors first take the union of every head's best; that changes nothing."""
    view = random_view(sequences=1, tokens=40)
    rows = torch.tensor(
        [
            _normalised(view, 0, layer, kv_head, head)
            for _, layer, kv_head in heads_of(view)
            for head in group_heads(view, kv_head)
        ]
    )
    union = set(rows.topk(12).indices.flatten().tolist())
    assert 12 < len(union) < 40
    ranked = sorted(union, key=lambda slot: float(rows[:, slot].max()), reverse=True)
    none = torch.zeros(1, dtype=torch.int64)
    kept = TriAttention(selection=1).select(view, 12, pinned=none, recent=none)
    assert kept[0, 0, 0].tolist() == sorted(ranked[:12])


def test_a_file_of_another_model_is_told() -> None:
    fits = {"q_mean": torch.zeros(2, 6, 8), "q_abs": torch.zeros(2, 6, 4)}
    assert TriAttention.artifact_complaint(fits, SHAPE) == ""
    other = {**fits, "q_abs": torch.zeros(2, 8, 4)}
    assert "q_abs is (2, 8, 4)" in TriAttention.artifact_complaint(other, SHAPE)
    assert "(2, 6, 4)" in TriAttention.artifact_complaint(other, SHAPE)
    del fits["q_mean"]
    assert "q_mean is missing" in TriAttention.artifact_complaint(fits, SHAPE)
