"""The tasks the pocket models were trained on: look-ups in a trace that derives its own tables.

Four families make the demo; grid is the control in which recency wins. To add one: write its file,
list it here, train the models again.
"""

import random

from clients.workloads.pocket.acct import Acct
from clients.workloads.pocket.base import EVAL_SIZES, Family, Instance, Split, draw, split_of
from clients.workloads.pocket.duo import Duo
from clients.workloads.pocket.grid import Grid
from clients.workloads.pocket.hop import Hop
from clients.workloads.pocket.memo import Memo
from clients.workloads.problem import Problem

FAMILIES: dict[str, Family] = {
    family.name: family for family in (Hop(), Acct(), Memo(), Duo(), Grid())
}
DEMO_FAMILIES = ("hop", "acct", "memo", "duo")


def problems(task: str, n: int, seed: int, split: Split = "eval") -> list[Problem]:
    """`n` different problems of one family, the same ones for the same arguments.

    The default split shares no seed digits with what the models were trained on; choose settings
    on `tune`, so that `eval` stays unseen. Raises ValueError for an unknown task.
    """
    if task not in FAMILIES:
        raise ValueError(f"unknown pocket task {task!r}: choose from {', '.join(FAMILIES)}")
    rng = random.Random(f"{task}:{split}:{seed}")
    found: dict[str, Problem] = {}
    while len(found) < n:
        instance = draw(FAMILIES[task], rng, rng.uniform(*EVAL_SIZES), split)
        name = instance.prompt.replace(" ", "-").replace(";", "-").replace(">", "-").rstrip("-")
        found[instance.prompt] = Problem(name, task, instance.prompt, instance.answer)
    return list(found.values())


__all__ = [
    "DEMO_FAMILIES",
    "FAMILIES",
    "Family",
    "Instance",
    "Problem",
    "Split",
    "draw",
    "problems",
    "split_of",
]
