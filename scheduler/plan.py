"""What the scheduler asks of the runner in one step, and what it gets back."""

from collections import Counter
from dataclasses import dataclass, field

from scheduler.request import Sequence


@dataclass(frozen=True, slots=True)
class Eviction:
    """Compact `sequence` from `tokens` KV entries to `keep`, in every layer and head.

    `blocks` is its table as it was: the tail beyond `keep` is free again in this very plan, so
    compaction comes before anything is written.
    """

    sequence: Sequence
    position: int  # logical position of the token that needs the room
    tokens: int
    keep: int
    blocks: tuple[int, ...]


@dataclass(slots=True)  # not frozen: that costs a step of 64 sequences 40 µs
class Chunk:
    """Run tokens `start .. start + count` of `sequence`; their KV goes to the slots that follow
    the `kv_start` entries it holds. A token at `start` that the sequence does not know yet is the
    one that the step before draws."""

    sequence: Sequence
    start: int  # logical position of the first token
    count: int
    kv_start: int  # physical entries before the chunk
    samples: bool  # whether the last token's logits are drawn from


def lay_out(sequence: Sequence, count: int, now: float) -> Chunk:
    """The next `count` tokens of a sequence, from here on booked as computed."""
    start, kv_start = sequence.computed, sequence.kv_tokens
    samples = sequence.length == start + count
    sequence.computed = start + count
    sequence.kv_tokens = kv_tokens = kv_start + count
    sequence.budget_class.tokens += count
    usage = sequence.usage
    if kv_tokens > usage.kv_tokens_peak:
        usage.kv_tokens_peak = kv_tokens
    if samples:
        sequence.length += 1
    if sequence.first_scheduled is None:
        sequence.first_scheduled = now
    return Chunk(sequence, start, count, kv_start, samples)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: evictions, then one packed forward of decodes and prefill chunks, then draws."""

    evictions: list[Eviction] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)  # decodes (count 1) come first

    @property
    def empty(self) -> bool:
        return not self.chunks

    @property
    def tokens(self) -> int:
        """Tokens in the forward pass."""
        return sum([chunk.count for chunk in self.chunks])

    @property
    def prefill_tokens(self) -> int:
        """Of these, those of chunks; decodes come first, so a step of decodes looks at one."""
        tokens = 0
        for chunk in reversed(self.chunks):
            if chunk.count == 1:
                break
            tokens += chunk.count
        return tokens


@dataclass(frozen=True, slots=True)
class TopLogprobs:
    """Log-probabilities at one drawn position."""

    logprob: float
    top: list[tuple[int, float]]  # most probable first


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a plan, one entry for each chunk that samples, in plan order."""

    tokens: list[int | None]  # None: the logits were not finite
    logprobs: list[TopLogprobs | None] | None = None  # None: nobody asked


@dataclass(slots=True)
class Drawn:
    """One token that a commit appended."""

    sequence: Sequence
    token: int
    logprobs: TopLogprobs | None


@dataclass
class Totals:
    """Counts since the start."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    evicted: Counter[str] = field(default_factory=Counter)  # KV tokens by policy
    rounds: Counter[str] = field(default_factory=Counter)  # by policy
    pressed: int = 0  # KV tokens evicted below a cap because blocks lacked
