"""One benchmark question."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What is asked and what the right answer is; how to ask and how to score live elsewhere."""

    id: str
    """Unique within the task and stable from run to run: rows of two runs are paired by it."""
    task: str
    """The family or data set the problem belongs to, e.g. `hop` or `aime24`."""
    prompt: str
    """The user message, as sent."""
    answer: str
    """The reference answer, without `\\boxed{}`."""
