"""How much is tried: what CI has the time for, or every combination (`make test-thorough`)."""

import itertools
import os
from collections.abc import Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

THOROUGH = "SLUICE_THOROUGH" in os.environ


def some(values: Iterable[A], step: int) -> list[A]:
    """Every `step`th of them; all of them where it shall be thorough."""
    return list(values)[:: 1 if THOROUGH else step]


def pairs(first: Iterable[A], second: Iterable[B]) -> list[tuple[A, B]]:
    """Each of the first with one of the second, in turns; with all where it shall be thorough."""
    if THOROUGH:
        return list(itertools.product(first, second))
    return list(zip(first, itertools.cycle(second), strict=False))
