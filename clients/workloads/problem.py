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
    """The user message as sent, or, where `bare`, the question alone."""
    answer: str
    """The reference answer, without `\\boxed{}`; of a multiple choice the letter."""
    options: tuple[str, ...] = ()
    """Of a multiple choice: the texts of A, B, ... in the order in which they are shown."""
    bare: bool = False
    """Whether a prompt recipe (`clients.workloads.prompts`) is still to be put around `prompt`."""
