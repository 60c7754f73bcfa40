import cmath
import math
from dataclasses import replace

import pytest
import torch

from engine.eviction.base import KEPT_FIRST, CacheView
from engine.eviction.regret import STILL, Regret, artifact_shapes, nearest_newer
from engine.kv_pool import KvShape
from tests.engine.eviction.artifacts import random_artifacts
from tests.engine.eviction.caches import random_view, score_by_loops

SHAPE = KvShape(layers=2, heads=6, kv_heads=3, head_dim=8, hidden_size=16, dtype=torch.float32)
NONE = torch.zeros(2, dtype=torch.int64)
FLOOR = 0.01

Vector = list[float]


def _unrotated(key: Vector, position: int, frequencies: Vector) -> Vector:
    half = len(frequencies)
    back = [
        complex(key[i], key[i + half]) * cmath.exp(-1j * position * frequencies[i])
        for i in range(half)
    ]
    return [z.real for z in back] + [z.imag for z in back]


def _affine(rows: list[Vector], vector: Vector, bias: Vector) -> Vector:
    columns = zip(*rows, strict=True)
    return [
        sum(w * x for w, x in zip(column, vector, strict=True)) + b
        for column, b in zip(columns, bias, strict=True)
    ]


def formula(view: CacheView, sequence: int, layer: int, kv_head: int) -> list[float]:
    """(probability of a look-up + floor) times the distance to the nearest newer entry."""
    assert view.artifact is not None
    assert view.frequencies is not None
    here = {name: view.artifact[name] for name in artifact_shapes(SHAPE)}
    weights = {name: tensor[layer, kv_head].double().tolist() for name, tensor in here.items()}
    frequencies = view.frequencies[layer].tolist()
    places, needed = [], []
    for slot, position in enumerate(view.positions[sequence, layer, kv_head].tolist()):
        key = view.keys[sequence, layer, kv_head, slot].double().tolist()
        value = view.values[sequence, layer, kv_head, slot].double().tolist()
        key = _unrotated(key, position, frequencies)
        places.append(_affine(weights["place_weight"], key + value, weights["place_bias"]))
        units = [max(x, 0.0) for x in _affine(weights["need_weight"], key, weights["need_bias"])]
        logit = sum(w * x for w, x in zip(weights["need_out"], units, strict=True))
        needed.append(1 / (1 + math.exp(-logit - weights["need_shift"])))
    scores = []
    for slot, place in enumerate(places):
        newer = [math.dist(place, other) for other in places[slot + 1 :]]
        distance = min(newer, default=math.sqrt(KEPT_FIRST))
        scores.append((needed[slot] + FLOOR) * (distance if distance >= STILL else 0.0))
    return scores


@pytest.mark.parametrize("tokens", [24, 32, 33, 70])
def test_follows_the_formula(tokens: int) -> None:
    """On both sides of a block of distances."""
    view = random_view(tokens=tokens)
    expected = score_by_loops(view, formula)
    torch.testing.assert_close(Regret().score(view).double(), expected, atol=1e-4, rtol=1e-4)


def _copied(view: CacheView, old: int, new: int, value: bool = True) -> CacheView:
    """The entry at slot `old` again at `new`, rotated to where that stands."""
    assert view.frequencies is not None
    keys, values = view.keys.clone(), view.values.clone()
    steps = view.positions[..., new] - view.positions[..., old]
    turns = torch.polar(
        torch.ones((), dtype=torch.float64), steps[..., None] * view.frequencies[:, None]
    )
    half = keys.shape[-1] // 2
    turned = torch.complex(*keys[..., old, :].double().split(half, dim=-1)) * turns
    keys[..., new, :] = torch.cat([turned.real, turned.imag], dim=-1).float()
    if value:
        values[..., new, :] = values[..., old, :]
    return replace(view, keys=keys, values=values)


def test_what_a_newer_entry_says_again_goes_first() -> None:
    view = random_view()
    again = _copied(view, 9, 15)
    score = Regret().score(again)
    assert (score[..., 9] == 0).all()
    kept = Regret().select(again, 23, pinned=NONE, recent=NONE)
    assert not (kept == 9).any()
    assert (kept == 15).any(dim=-1).all(), "of copies the newest stays"


def test_the_same_key_with_another_value_is_no_copy() -> None:
    changed = _copied(random_view(), 9, 15, value=False)
    assert (Regret().score(changed)[..., 9] > 0).all()


def test_the_floor_keeps_apart_what_is_never_looked_up() -> None:
    view = random_view()
    assert view.artifact is not None
    never = {**view.artifact, "need_shift": view.artifact["need_shift"] - 1e4}
    view = replace(view, artifact=never)
    assert (Regret(floor=0.0).score(view) == 0).all()
    score = Regret().score(view)
    places = score[..., :-1]
    assert (places > 0).all()
    assert places.flatten(0, 2).std(dim=-1).min() > 0


def test_the_newest_has_no_newer_one() -> None:
    distance = nearest_newer(torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(2)))
    assert (distance[:, -1] == math.sqrt(KEPT_FIRST)).all()
    assert (distance[:, :-1] < 100).all()


def test_a_file_of_another_model_is_named() -> None:
    artifact = random_artifacts(SHAPE)["regret"]
    assert Regret.artifact_complaint(artifact, SHAPE) == ""
    other = replace(SHAPE, head_dim=16)
    assert "place_weight is (2, 3, 16, 4), where this model needs (2, 3, 32, 8)" in (
        Regret.artifact_complaint(artifact, other)
    )
    del artifact["need_shift"]
    assert "need_shift is missing" in Regret.artifact_complaint(artifact, SHAPE)
