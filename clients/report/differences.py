"""Which cells are compared, paired by problem: with the whole cache, along budgets, by policy."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from clients.records import Record
from clients.statistics import Difference, paired_difference

BASELINE = "r_kv"  # the server's default
MEAN = "mean of tasks"
Kind = Literal["whole cache", "largest budget", "next budget", "baseline policy"]
Setting = tuple[int | None, str | None]  # budget and policy; (None, None) is the whole cache


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Pass@1 of one cell minus that of another, over the problems that both have."""

    model: str
    task: str  # MEAN: the mean over the tasks, each weighing the same
    budget: int
    policy: str | None
    kind: Kind  # what it is compared with
    against_budget: int | None  # KV tokens; None is the whole cache
    against_policy: str | None
    difference: float  # 0.1 is ten points of a hundred
    low: float  # 95 % bootstrap interval over problems
    high: float
    problems: int
    excludes_zero: bool


def compare(rows: Iterable[Record], baseline: str = BASELINE) -> list[Compared]:
    """Every comparison that the rows allow.

    Each budget is compared with the whole cache, or where that was not measured with the largest
    budget of its policy; with the next larger budget of its policy; and with the policy `baseline`
    under the same budget. The mean needs every task of the model in both.
    """
    models: dict[str, dict[Setting, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        models[row.model][row.budget, row.policy].append(row)
    return [
        compared
        for model, settings in models.items()
        for kind, one, other in _pairs(settings, baseline)
        for compared in _compared(model, kind, one, other, settings)
    ]


def _pairs(settings: Iterable[Setting], baseline: str) -> Iterator[tuple[Kind, Setting, Setting]]:
    """What is compared with what: the reference first, for all, then the others."""
    known = sorted((s for s in settings if s[0] is not None), key=lambda s: s[0] or 0)
    policies = list(dict.fromkeys(policy for _, policy in settings if policy is not None))
    whole: Setting = (None, None)
    own = {policy: [s for s in known if s[1] == policy] for policy in policies}
    for line in own.values():
        if whole in settings:
            yield from (("whole cache", one, whole) for one in line)
        else:
            yield from (("largest budget", one, line[-1]) for one in line[:-1])
    for line in own.values():
        yield from (("next budget", *pair) for pair in pairwise(line))
    for policy, line in own.items():
        for one in line:
            if policy != baseline and (one[0], baseline) in settings:
                yield "baseline policy", one, (one[0], baseline)


def _compared(
    model: str,
    kind: Kind,
    one: Setting,
    other: Setting,
    settings: dict[Setting, list[Record]],
) -> Iterator[Compared]:
    left, right = settings[one], settings[other]
    tasks = list(dict.fromkeys(row.task for rows in settings.values() for row in rows))
    found: dict[str, Difference | None] = {
        task: paired_difference(_of(left, task), _of(right, task)) for task in tasks
    }
    if len(tasks) > 1 and None not in found.values():
        found[MEAN] = paired_difference(left, right)
    for task, difference in found.items():
        if difference is not None:
            yield Compared(
                model=model,
                task=task,
                budget=one[0] or 0,
                policy=one[1],
                kind=kind,
                against_budget=other[0],
                against_policy=other[1],
                difference=difference.mean,
                low=difference.low,
                high=difference.high,
                problems=difference.problems,
                excludes_zero=difference.excludes_zero,
            )


def _of(rows: Sequence[Record], task: str) -> list[Record]:
    return [row for row in rows if row.task == task]
