import torch

from engine.eviction.base import CacheView
from engine.eviction.window import Window
from tests.engine.eviction.caches import random_view, score_by_loops, view_of_keys


def formula(view: CacheView, sequence: int, layer: int, head: int) -> list[float]:
    return [float(position) for position in view.positions[sequence, layer, head]]


def test_keeps_sinks_and_newest() -> None:
    view = view_of_keys([[0.0]] * 10)
    kept = Window().select(view, 5, pinned=torch.tensor([2]), recent=torch.tensor([0]))
    assert kept.flatten().tolist() == [0, 1, 7, 8, 9]


def test_scores_are_logical_positions() -> None:
    view = random_view()
    assert torch.equal(Window().score(view).double(), score_by_loops(view, formula))
