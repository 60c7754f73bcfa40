import torch

from engine.eviction.rounding import coarse
from tests.engine.eviction import caches


def test_keeps_twelve_bits() -> None:
    draw = torch.Generator().manual_seed(1)
    scores = torch.randn(1000, generator=draw) * 10.0 ** torch.arange(-20, 20).repeat(25)
    expected = [caches.coarse(score) for score in scores.tolist()]
    assert coarse(scores).tolist() == expected
    assert ((coarse(scores) - scores).abs() <= scores.abs() / 4096).all()


def test_noise_goes_and_order_stays() -> None:
    scores = torch.tensor([-2.0, -1.00001, -1.0, -0.0, 0.0, 1.0, 1.00001, 1.001])
    assert coarse(scores[:-1]).tolist() == [-2, -1, -1, 0, 0, 1, 1]
    assert coarse(scores)[-1] > 1
