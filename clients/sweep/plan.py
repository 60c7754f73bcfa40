"""What a sweep measures. Knows nothing of how."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from clients.errors import SweepError
from clients.records import Cell
from clients.workloads import prompts
from clients.workloads.problem import Problem
from protos.sluice.v1 import sluice_pb2 as pb

WHOLE_CACHE = "full"


@dataclass(frozen=True)
class Settings:
    """What every request of a run has in common. None is the server's default."""

    samples: int = 1  # answers to each problem
    concurrency: int = 64  # requests in flight
    max_tokens: int | None = None
    floor: int | None = None  # KV tokens that pressure may take a larger budget down to
    temperature: float | None = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    request_seconds: float | None = None  # deadline of one request
    prompt: str = prompts.DEFAULT  # recipe that is put around bare questions
    stream_interval: int = 32  # only the end of an answer matters here, so messages are saved


@dataclass(frozen=True)
class Plan:
    """The grid and the problems."""

    problems: Mapping[str, tuple[Problem, ...]]  # by task
    budgets: tuple[int | None, ...]  # None is the whole cache
    policies: tuple[str, ...] = ()  # empty: the server's default; the first is drawn as bars
    settings: Settings = Settings()

    def cells(self, info: pb.ModelInfo) -> list[Cell]:
        """The cells of one model. The whole cache has no policy and is measured once.

        Raises:
            SweepError: the server cannot serve one of them; says which, and what it can.
        """
        policies = self.policies or (info.default_policy,)
        check(self, policies, info)
        return [
            Cell(info.name, task, budget, policy)
            for task in self.problems
            for budget in self.budgets
            for policy in ((None,) if budget is None else policies)
        ]


@dataclass(frozen=True)
class Job:
    """One answer that is wanted."""

    problem: Problem
    sample: int

    def seed(self, base: int) -> int:
        """Seed of the draw: the same in every cell, so that cells are compared like with like."""
        digest = hashlib.sha256(f"{base}:{self.problem.id}:{self.sample}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def check(plan: Plan, policies: tuple[str, ...], info: pb.ModelInfo) -> None:
    """Raises SweepError where the server would refuse a cell for its budget or policy."""
    known = [policy.name for policy in info.policies]
    for policy in policies:
        if policy not in known:
            raise SweepError(f"{info.name} has no policy {policy!r}; it has {', '.join(known)}")
    for budget in plan.budgets:
        if info.max_kv_budget and not 0 < (budget or 0) <= info.max_kv_budget:
            asked = WHOLE_CACHE if budget is None else budget
            raise SweepError(
                f"the server of {info.name} allows budgets of 1 to {info.max_kv_budget} tokens; "
                f"got {asked}. Leave it out of --budgets, or start the server with a higher ceiling"
            )


def parse_budgets(text: str) -> tuple[int | None, ...]:
    """ "full,96,2500:3500:500" -> (None, 96, 2500, 3000, 3500); ranges hold both ends.

    Raises SweepError naming the part that is wrong.
    """
    budgets: list[int | None] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        budgets += _budgets(part)
    if not budgets or len(set(budgets)) != len(budgets):
        raise SweepError(f"got the budgets {text!r}; want at least one, and each only once")
    return tuple(budgets)


def _budgets(part: str) -> list[int | None]:
    if part == WHOLE_CACHE:
        return [None]
    numbers = [int(number) for number in part.split(":") if number.isdecimal()]
    if min(numbers, default=0) > 0 and len(numbers) == part.count(":") + 1:
        if len(numbers) == 1:
            return [*numbers]
        if len(numbers) == 3 and (numbers[1] - numbers[0]) % numbers[2] == 0:
            found: list[int | None] = [*range(numbers[0], numbers[1] + 1, numbers[2])]
            if found:
                return found
    raise SweepError(
        f"got the budget {part!r}; want positive whole numbers of KV tokens, FIRST:LAST:STEP with "
        f"LAST a whole number of steps from FIRST, or {WHOLE_CACHE!r} for the whole cache, "
        "separated by commas"
    )
