"""What a KV budget resolves to: cap, pinned tokens, reclaim. See docs/budgets.md.

Knows nothing of policies but the share of recent tokens that each asks for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.errors import InvalidRequest

RECENT_SHARE = 1 / 8  # of the cap; a policy may ask for more
SEARCH_STEPS = 200  # for the smallest cap; each comes closer by the recent share at least


@dataclass(frozen=True)
class BudgetRequest:
    """A budget as the caller wrote it; None is the default."""

    max_tokens: int | None = None
    policy: str | None = None
    policy_settings: dict[str, float] = field(default_factory=dict)
    recent_tokens: int | None = None
    sink_tokens: int | None = None
    reclaim_tokens: int | None = None
    evict_prompt: bool = False


@dataclass(frozen=True)
class BudgetLimits:
    """The operator's side."""

    default_tokens: int = 0  # cap of requests that name none; 0: no budget
    max_tokens: int = 0  # largest cap allowed; 0: no ceiling
    default_policy: str = "r_kv"

    def __post_init__(self) -> None:
        if self.max_tokens and self.default_tokens > self.max_tokens:
            raise ValueError(
                f"default_tokens is {self.default_tokens}, above max_tokens={self.max_tokens}; "
                "lower the default or raise the ceiling"
            )


@dataclass(frozen=True)
class Budget:
    """A budget in force, all counts in KV tokens per layer and head."""

    cap: int  # never exceeded
    policy: str
    policy_settings: dict[str, float]
    recent: int  # newest tokens, never evicted
    pinned: int  # oldest tokens, never evicted: the prompt, or the sinks
    reclaim: int  # freed by one round
    evict_prompt: bool = False

    @property
    def least(self) -> int:
        """Tokens that a cap must hold for a round to free what it should."""
        return self.pinned + self.recent + self.reclaim

    @property
    def keep(self) -> int:
        """Tokens left after a round."""
        return self.cap - self.reclaim


def default_recent(cap: int, share: float) -> int:
    """Newest tokens pinned by default: `share` of the cap, at least 8."""
    return max(8, int(cap * share))


def default_reclaim(cap: int) -> int:
    """Tokens freed by default: a sixteenth of the cap, within 16..128.

    A round copies about `cap` tokens and buys `reclaim` steps, so the copy costs about
    2 / reclaim of the attention's reads.
    """
    return min(max(cap // 16, 16), 128)


def default_sinks(cap: int) -> int:
    """Oldest tokens pinned by default where the prompt is not: within 1..4."""
    return min(max(cap // 64, 1), 4)


def resolve(
    asked: BudgetRequest,
    limits: BudgetLimits,
    *,
    prompt_tokens: int,
    max_new_tokens: int,
    recent_share: float = RECENT_SHARE,
) -> Budget | None:
    """The budget in force, or None for no budget.

    Raises:
        InvalidRequest: above the ceiling, or too small to ever hold what it pins. The message
            names the smallest cap that fits.
    """
    cap = _cap(asked, limits)
    if cap == 0:
        return None

    def build(cap: int) -> Budget:
        sinks = _or(asked.sink_tokens, default_sinks(cap))
        return Budget(
            cap=cap,
            policy=asked.policy or limits.default_policy,
            policy_settings=asked.policy_settings,
            recent=_or(asked.recent_tokens, default_recent(cap, recent_share)),
            pinned=sinks if asked.evict_prompt else max(prompt_tokens, sinks),
            reclaim=_or(asked.reclaim_tokens, default_reclaim(cap)),
            evict_prompt=asked.evict_prompt,
        )

    budget = build(cap)
    never_reached = prompt_tokens + max_new_tokens
    if never_reached <= cap or _holds(budget):
        return budget
    smallest = min(_smallest(build, cap + 1) or never_reached, never_reached)
    hint = (
        f"the smallest budget that fits is {smallest}"
        if smallest <= (limits.max_tokens or smallest)
        else "ask for fewer recent, sink or reclaim tokens"
    )
    pinned = "sinks" if asked.evict_prompt else "prompt"
    raise InvalidRequest(
        "kv_budget.max_tokens",
        f"{cap} is too small for {pinned} {budget.pinned} + recent {budget.recent} + reclaim "
        f"{budget.reclaim}; {hint}"
        + ("" if asked.evict_prompt else ", or set evict_prompt to let the prompt go too"),
    )


def _cap(asked: BudgetRequest, limits: BudgetLimits) -> int:
    if asked.max_tokens is None:
        return limits.default_tokens or limits.max_tokens
    if limits.max_tokens and not 0 < asked.max_tokens <= limits.max_tokens:
        raise InvalidRequest(
            "kv_budget.max_tokens",
            f"got {asked.max_tokens}; this server allows 1 to {limits.max_tokens}",
        )
    return asked.max_tokens


def _holds(budget: Budget) -> bool:
    return budget.reclaim >= 1 and budget.least <= budget.cap


def _smallest(build: Callable[[int], Budget], cap: int) -> int | None:
    """The smallest cap that holds what it pins, `cap` or above; None if there seems to be none.

    What a cap must hold never falls as it rises, so steps up to that cannot pass the smallest.
    """
    for _ in range(SEARCH_STEPS):
        budget = build(cap)
        if _holds(budget):
            return cap
        cap = max(cap, budget.least)
    return None


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
