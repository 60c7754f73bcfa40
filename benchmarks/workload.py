"""What every engine is asked for when engines are compared, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """Prompts of one length, greedy, end tokens ignored, all in one batch."""

    model: str  # a local directory or a hub id
    prompts: list[list[int]]
    new_tokens: int
    threads: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of each prompt."""
        return len(self.prompts[0])

    @property
    def longest(self) -> int:
        """Tokens of each output at its end, prompt included."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True)
class Run:
    """What one run over all prompts came to."""

    tokens: list[list[int]]  # new ones, by prompt
    seconds: float  # wall clock, from the prompts to the last token
    steps: int  # forward passes; where the engine does not tell, the fewest possible

    @property
    def tokens_per_second(self) -> float:
        return sum(map(len, self.tokens)) / self.seconds


@dataclass(frozen=True)
class System:
    """An engine that holds the model and is ready to run."""

    name: str
    run: Callable[[int], Run]  # takes the number of new tokens, at most the workload's
    settings: str  # those that were chosen for it, in words
