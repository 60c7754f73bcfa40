"""Budget classes: who waits and runs, and what they hold, by the size of their KV budgets.

Counted as sequences move, never by looking at all of them, so that a step costs the same however
many run.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.budget import Budget


@dataclass(slots=True)
class BudgetClass:
    """Counts over the outputs whose budgets are of one size."""

    bound: int  # of their caps, in KV tokens: a power of two; 0 is no budget
    live: int = 0  # outputs that wait or run
    running: int = 0
    blocks: int = 0  # in their block tables; one that outputs share counts for each of them
    tokens: int = 0  # KV entries that they hold

    @property
    def waiting(self) -> int:
        return self.live - self.running


class BudgetClasses:
    """The classes of one pool: no budget, and each power of two up to the pool.

    A cap belongs to the smallest power that holds it; caps beyond the pool are in the last class.
    """

    def __init__(self, pool_tokens: int) -> None:
        self._last = max(pool_tokens - 1, 0).bit_length()
        self._classes: dict[int, BudgetClass] = {}

    def __iter__(self) -> Iterator[BudgetClass]:
        """Those that have outputs, smallest budgets first; no budget comes last."""
        live = [found for found in self._classes.values() if found.live]
        return iter(sorted(live, key=lambda found: found.bound or 2 << self._last))

    def of(self, budget: Budget | None) -> BudgetClass:
        """The class of outputs with this budget."""
        bound = 0 if budget is None else 1 << min((budget.cap - 1).bit_length(), self._last)
        return self._classes.setdefault(bound, BudgetClass(bound))
