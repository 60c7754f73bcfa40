import torch

from engine.eviction.window import Window
from tests.engine.eviction.caches import random_view, view_of_keys


def test_keeps_sinks_and_newest() -> None:
    view = view_of_keys([[0.0]] * 10)
    kept = Window().select(view, 5, pinned=torch.tensor([2]), recent=torch.tensor([0]))
    assert kept.flatten().tolist() == [0, 1, 7, 8, 9]


def test_scores_are_logical_positions() -> None:
    view = random_view()
    assert torch.equal(Window().score(view), view.positions.float())
