"""Follows the engine round by round, and checks each round against a formula.

Where the formula's scores tie but for rounding, the engine's choice is as good and is followed, so
that one such choice does not make all later rounds differ.
"""

import math

import torch

from engine.eviction.base import CacheView
from scheduler.budget import Budget
from tests.engine.faithful.formulas import Formula

TOLERANCE = 1e-5  # of scores, relative: closer than that is a tie


class Lockstep:
    """Keeps what the engine kept, after asserting that the formula says so too."""

    def __init__(self, formula: Formula, kept: list[torch.Tensor]) -> None:
        self._formula = formula
        self._kept = iter(kept)  # positions [layers, kv_heads, kept] of each round
        self.ties = 0  # heads and rounds in which one was followed

    def __call__(self, view: CacheView, budget: Budget) -> torch.Tensor:
        """Keep (tests.engine.dense_oracle) of one round."""
        actual = next(self._kept)
        held = view.positions[0]
        slots = torch.empty(actual.shape, dtype=torch.int64)
        for layer in range(held.shape[0]):
            for head in range(held.shape[1]):
                scores = _protect(self._formula(view, 0, layer, head), budget)
                position = held[layer, head].tolist()
                order = sorted(range(len(scores)), key=lambda slot: (scores[slot], slot))
                expected = {position[slot]: scores[slot] for slot in order[-budget.keep :]}
                others = {position[slot]: scores[slot] for slot in order[: -budget.keep]}
                chosen = actual[layer, head].tolist()
                self.ties += _compare(expected, others, chosen, f"layer {layer}, head {head}")
                slots[layer, head] = torch.tensor([position.index(p) for p in chosen])
        return slots


def _protect(scores: list[float], budget: Budget) -> list[float]:
    """`scores` with the pinned and the recent entries above all others."""
    newest = len(scores) - budget.recent
    return [
        math.inf if slot < budget.pinned or slot >= newest else score
        for slot, score in enumerate(scores)
    ]


def _compare(
    expected: dict[int, float], others: dict[int, float], chosen: list[int], where: str
) -> bool:
    """Whether a tie was followed; raises AssertionError if it was more than that.

    Args:
        expected: score by position of what the formula keeps.
        others: and of what it drops.
        chosen: positions that the engine kept.
        where: for the message.
    """
    assert len(chosen) == len(expected), where
    assert set(chosen) <= expected.keys() | others.keys(), f"{where}: kept what was gone"
    for missing in expected.keys() - set(chosen):
        for instead in set(chosen) - expected.keys():
            high, low = expected[missing], others[instead]
            assert high - low <= TOLERANCE * max(abs(high), abs(low)), (
                f"{where}: dropped {missing} with {high}, kept {instead} with {low}"
            )
    return set(chosen) != expected.keys()
