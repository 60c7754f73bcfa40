"""The nouns of scheduling: a request, its outputs (sequences), and what they used."""

from dataclasses import dataclass, field
from enum import StrEnum

from scheduler.budget import Budget
from scheduler.classes import BudgetClass
from scheduler.tenants import Tenant


class FinishReason(StrEnum):
    """Why an output ended."""

    STOP = "stop"  # an end token, a stop token or a stop string
    LENGTH = "length"  # max_tokens
    CANCELLED = "cancelled"  # by the caller: cancel, disconnect, Abort
    DEADLINE = "deadline"  # the caller's or the server's
    ERROR = "error"  # its logits were not finite
    LOST = "lost"  # a step failed that it was part of


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the contract's Sampling with every default filled in."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    logprobs: int | None = None


@dataclass(frozen=True)
class Request:
    """One prompt and its `n` outputs, validated and with its budget in force."""

    key: int
    prompt: tuple[int, ...]
    max_new_tokens: int
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()  # drawing one of these ends the output
    budget: Budget | None = None
    priority: int = 0
    salt: str = ""
    arrival: float = 0.0  # seconds on time.monotonic's clock
    deadline: float | None = None  # the same clock
    resumed: tuple[int, ...] = ()  # drawn before, by a process that is gone; the answer goes on
    tenant: Tenant = field(default_factory=Tenant)

    @property
    def shares_prompt(self) -> bool:
        """Whether its prompt blocks may be shared; a prompt that may be evicted is private."""
        return self.budget is None or not self.budget.evict_prompt

    @property
    def needed_tokens(self) -> int:
        """KV tokens that one output must be able to hold: its length, or its floor if less."""
        total = len(self.prompt) + self.max_new_tokens
        return total if self.budget is None else min(total, self.budget.floor)

    @property
    def most_tokens(self) -> int:
        """KV tokens that one output may come to hold: its length, or its cap if less."""
        total = len(self.prompt) + self.max_new_tokens
        return total if self.budget is None else min(total, self.budget.cap)


@dataclass
class Usage:
    """What one output used so far; the contract's Usage without what the front counts."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    kv_tokens_peak: int = 0
    kv_tokens_final: int = 0
    kv_tokens_evicted: int = 0
    kv_tokens_pressed: int = 0  # of these, below the cap because blocks lacked
    eviction_rounds: int = 0
    kv_blocks_peak: int = 0
    preemptions: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    resumed_tokens: int = 0  # of completion_tokens, those that were not drawn here


@dataclass(eq=False)
class Sequence:
    """One output of a request, with its place in the KV pool.

    Logical and physical length differ once tokens were evicted: positions count `computed` and
    never shrink, slots count `kv_tokens`.
    """

    request: Request
    output: int
    tokens: list[int]  # prompt, then what was drawn, here or before
    budget_class: BudgetClass = field(default_factory=lambda: BudgetClass(0))  # counts it
    length: int = field(
        init=False
    )  # of `tokens`, and of the draws in flight: two between a plan and a commit
    final_length: int = field(init=False)  # at most so many tokens will be known
    cap: int = field(init=False)  # at most so many KV entries will be held
    computed: int = 0  # leading tokens whose KV was written; the next position
    kv_tokens: int = 0  # KV entries held, in every layer and head
    blocks: list[int] = field(default_factory=list)  # block table, in cache order
    row: int | None = None  # place in per-sequence device state while it runs
    table_clean: int = 0  # leading entries of `blocks` that the runner has seen
    published: int = 0  # leading blocks that the prefix cache knows
    usage: Usage = field(default_factory=Usage)
    first_scheduled: float | None = None
    first_token: float | None = None
    ended: bool = False  # has a finish reason; what is still in flight for it counts for nothing

    def __post_init__(self) -> None:
        self.usage.prompt_tokens = len(self.request.prompt)
        self.usage.resumed_tokens = len(self.request.resumed)
        self.length = len(self.tokens)
        self.final_length = len(self.request.prompt) + self.request.max_new_tokens
        budget = self.request.budget
        self.cap = self.final_length if budget is None else budget.cap

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def generated(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def end(self) -> FinishReason | None:
        """Why nothing may follow its last token; None while something may."""
        if self.tokens[-1] in self.request.end_ids and self.generated:  # a prompt may end in one
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.tokens) >= self.final_length else None

    @property
    def pending(self) -> int:
        """Tokens whose KV is still to be written, one in flight among them; 1 while decoding."""
        return self.length - self.computed

    @property
    def in_flight(self) -> bool:
        """Whether a token was asked for in a step whose result is not committed."""
        return self.length > len(self.tokens)

    @property
    def order(self) -> tuple[int, float, int, int]:
        """Sort key of its tenant's line: priority, then arrival, then output."""
        request = self.request
        return (-request.priority, request.arrival, request.key, self.output)

    @property
    def rank(self) -> tuple[int, float, int, int]:
        """Sort key of what runs; among tenants priority does not count, or all would claim it."""
        request = self.request
        return self.order if not request.tenant.name else (0, *self.order[1:])
