"""Which budgets and policies the requests ask for, and in what proportion."""

from collections.abc import Sequence
from dataclasses import dataclass

from clients.errors import LoadError
from clients.settings import KvBudget
from clients.sweep.plan import WHOLE_CACHE

KEYS = "budget, policy, floor, weight"


@dataclass(frozen=True)
class Share:
    """A class of requests. None is the server's default."""

    budget: int | None = None  # KV tokens; 0 is the whole cache
    policy: str | None = None
    floor: int | None = None  # KV tokens that pressure may take the budget down to
    weight: float = 1.0  # how often, relative to the others

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.budget == 0:
            return WHOLE_CACHE
        budget = "default budget" if self.budget is None else str(self.budget)
        floor = "" if self.floor is None else f" floor {self.floor}"
        return f"{budget}{floor}" + ("" if self.policy is None else f" {self.policy}")

    @property
    def kv_budget(self) -> KvBudget:
        """As a request says it."""
        return KvBudget(max_tokens=self.budget, policy=self.policy, min_tokens=self.floor)


def parse_mix(texts: Sequence[str]) -> tuple[Share, ...]:
    """["budget=2500,policy=r_kv,weight=3", "budget=full"] as shares; none: the server's default.

    Raises:
        LoadError: a part cannot be read, or two shares are the same; names it.
    """
    shares = tuple(_share(text) for text in texts) or (Share(),)
    labels = [share.label for share in shares]
    for label in labels:
        if labels.count(label) > 1:
            raise LoadError(f"--mix has {label!r} twice; give it once, with the sum of the weights")
    return shares


def _share(text: str) -> Share:
    given: dict[str, str] = {}
    for part in text.split(","):
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or not value or key not in KEYS.split(", ") or key in given:
            raise LoadError(
                f"got {part.strip()!r} in --mix {text!r}; want KEY=VALUE with commas, each once, "
                f"of {KEYS}; for example budget=2500,policy=r_kv,weight=3"
            )
        given[key] = value
    try:
        share = Share(
            budget=_budget(given.get("budget")),
            policy=given.get("policy"),
            floor=int(given["floor"]) if "floor" in given else None,
            weight=float(given.get("weight", 1.0)),
        )
    except ValueError:
        share = None
    if share is None or not 0 < share.weight < float("inf") or not _least(share):
        raise LoadError(
            f"got --mix {text!r}; budget is {WHOLE_CACHE!r} or KV tokens, at least 1, as is floor; "
            "weight is a number over 0"
        )
    return share


def _least(share: Share) -> bool:
    return share.floor is None or share.floor >= 1


def _budget(text: str | None) -> int | None:
    if text is None:
        return None
    if text == WHOLE_CACHE:
        return 0
    if int(text) < 1:
        raise ValueError(text)
    return int(text)
