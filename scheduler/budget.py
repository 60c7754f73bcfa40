"""What a KV budget resolves to: cap, floor, pinned tokens, reclaim. See docs/budgets.md.

Knows nothing of policies but the share of recent tokens that each asks for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from scheduler.errors import InvalidRequest

RECENT_SHARE = 1 / 8  # of the cap; a policy may ask for more
SEARCH_STEPS = 200  # for the smallest floor; each comes closer by the recent share at least


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
    min_tokens: int | None = None


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
    min_tokens: int | None = None  # what pressure may take it down to; None: not elastic
    unit: int = 1  # entries evicted together: 1, or a block where whole blocks go

    @property
    def elastic(self) -> bool:
        return self.min_tokens is not None

    @property
    def floor(self) -> int:
        """What it may hold however short of blocks the pool is; the cap, if it is not elastic."""
        return _or(self.min_tokens, self.cap)

    @property
    def least(self) -> int:
        """Tokens that a floor must hold for a round to free what it should."""
        return whole(self.pinned, self.unit) + self.recent + self.reclaim

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
    unit: int = 1,
) -> Budget | None:
    """The budget in force, or None for no budget.

    Defaults are those of the floor: where nothing is spare, an elastic budget is one of its floor.

    Raises:
        InvalidRequest: above the ceiling, a floor above the cap, or too small to ever hold what it
            pins. The message names the smallest cap or floor that fits.
    """
    cap = _cap(asked, limits)
    floor = _floor(asked, cap)
    if cap == 0:
        return None

    def build(tokens: int) -> Budget:
        """With a floor of `tokens`, and a cap that is not below it."""
        sinks = _or(asked.sink_tokens, default_sinks(tokens))
        return Budget(
            cap=max(tokens, cap),
            policy=asked.policy or limits.default_policy,
            policy_settings=asked.policy_settings,
            recent=_or(asked.recent_tokens, default_recent(tokens, recent_share)),
            pinned=sinks if asked.evict_prompt else max(prompt_tokens, sinks),
            reclaim=whole(_or(asked.reclaim_tokens, default_reclaim(tokens)), unit),
            evict_prompt=asked.evict_prompt,
            min_tokens=tokens if tokens < cap else None,
            unit=unit,
        )

    budget = build(floor)
    never_reached = prompt_tokens + max_new_tokens
    if never_reached <= floor or _holds(budget):
        return budget
    smallest = min(_smallest(build, floor + 1) or never_reached, never_reached)
    raise _too_small(budget if smallest <= cap else build(cap), smallest, limits)


def _too_small(budget: Budget, smallest: int, limits: BudgetLimits) -> InvalidRequest:
    """Why `budget` is refused; `smallest` is what its floor would have to be."""
    noun = "floor" if budget.elastic else "budget"
    hint = (
        f"the smallest {noun} that fits is {smallest}"
        if smallest <= (limits.max_tokens or smallest)
        else "ask for fewer recent, sink or reclaim tokens"
    )
    blocks = f", in whole blocks of {budget.unit}" if budget.unit > 1 else ""
    pinned = "sinks" if budget.evict_prompt else "prompt"
    return InvalidRequest(
        "kv_budget.min_tokens" if budget.elastic else "kv_budget.max_tokens",
        f"{budget.floor} is too small for {pinned} {budget.pinned} + recent {budget.recent} + "
        f"reclaim {budget.reclaim}{blocks}; {hint}"
        + ("" if budget.evict_prompt else ", or set evict_prompt to let the prompt go too"),
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


def _floor(asked: BudgetRequest, cap: int) -> int:
    floor = _or(asked.min_tokens, cap)
    if floor > cap:
        most = f"send at most {cap}, or raise max_tokens" if cap else "set max_tokens as well"
        raise InvalidRequest(
            "kv_budget.min_tokens", f"got {floor}, above the budget of {cap or 'none'}; {most}"
        )
    return floor


def _holds(budget: Budget) -> bool:
    return budget.reclaim >= 1 and budget.least <= budget.floor


def _smallest(build: Callable[[int], Budget], tokens: int) -> int | None:
    """The smallest floor that holds what it pins, `tokens` or above; None if there seems none.

    What a floor must hold never falls as it rises, so steps up to that cannot pass the smallest.
    """
    for _ in range(SEARCH_STEPS):
        budget = build(tokens)
        if _holds(budget):
            return tokens
        tokens = max(tokens, budget.least)
    return None


def whole(tokens: int, unit: int) -> int:
    """`tokens`, rounded up to whole units."""
    return -(-tokens // unit) * unit


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
