"""What a step costs to plan, per running sequence: flat in who runs, who waits, and who ended.

    python -m benchmarks.scheduler            about 3 minutes
    python -m benchmarks.scheduler --quick    fewer repetitions, under a minute

No model: what a step draws is made up. Measured are `plan` and `commit`, in CPU time of the thread,
divided by the running sequences; cases take turns, and medians over the turns are reported. The
cyclic garbage collector is off, but for the rows that say otherwise: those run alone on the heap,
with the collector as Python starts it, as the engine has it.

Decoding only, but for `churn`: there every output ends after LIFE tokens, and steps also admit,
prefill and finish (submitting is not measured). Appends to benchmarks/results/scheduler.jsonl. The
last line on stdout is one JSON object:

    ratio_running    cost per running sequence at 512 running over that at 8; the dearer of
                     budgeted and unbudgeted sequences
    ratio_waiting    at 100,000 waiting over 10, the dearest kind of waiting
    ratio_finished   with 100,000 finished requests behind it over none
    ratio_collector  at 100,000 waiting over 10 with the garbage collector on
    microseconds     per running sequence and step, at 512 running under budgets
"""

import gc
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import results
from scheduler.budget import Budget
from scheduler.config import SchedulerConfig
from scheduler.plan import StepResult
from scheduler.request import Request
from scheduler.scheduler import Scheduler

PROMPT = 40  # tokens
CAP, RECLAIM = 128, 16  # of budgeted sequences
LIFE = 32  # new tokens of an output under churn
WARM_UP = CAP  # steps, after which every budgeted sequence has had an eviction round
TOKEN = 7


@dataclass(frozen=True)
class Case:
    """A state of the scheduler."""

    running: int
    waiting: int = 0
    finished: int = 0  # requests that ran and ended before
    budgeted: bool = True
    waits_for: str = "row"  # "row", or "blocks": a row is free, and whoever is next does not fit
    churn: bool = False
    collector: bool = False  # garbage collection as Python starts it


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    running: tuple[int, ...]
    waiting: tuple[int, ...]
    finished: int
    middle: int  # running sequences where waiting and finished ones vary
    steps: int  # per turn; a multiple of RECLAIM, so that turns have equal eviction rounds
    turns: int

    def cases(self) -> list[Case]:
        """All states; those with the garbage collector on come last."""
        running = [Case(n, budgeted=b) for b in (True, False) for n in self.running]
        kinds = [("row", False), ("blocks", False), ("row", True)]
        waiting = [
            Case(self.middle, waiting=n, waits_for=waits_for, churn=churn)
            for waits_for, churn in kinds
            for n in self.waiting
        ]
        finished = [Case(self.middle, finished=n) for n in (0, self.finished)]
        collected = [Case(self.middle, waiting=n, collector=True) for n in self.waiting]
        return [*running, *waiting, *finished, *collected]


FULL = Sizes((8, 32, 128, 512), (10, 1_000, 100_000), 100_000, middle=128, steps=96, turns=15)
QUICK = Sizes((8, 512), (10, 100_000), 20_000, middle=64, steps=32, turns=5)


class Bench:
    """A scheduler in the state of a case, stepped without a model."""

    def __init__(self, case: Case, steps: int) -> None:
        """`steps` is how many will be asked of it."""
        self.case = case
        self._keys = itertools.count(1)
        self._now = 0.0
        self._planned = 0  # chunks, over all steps
        self._longest = steps + WARM_UP + LIFE + RECLAIM  # new tokens; only churn ends outputs
        spare = case.waits_for == "blocks"
        own = -(-(CAP if case.budgeted else PROMPT + self._longest) // 16)
        self.scheduler = Scheduler(
            SchedulerConfig(
                max_running=case.running + spare,
                max_waiting=case.waiting + case.finished + case.running + 1,
                max_batch_tokens=max(1024, case.running * PROMPT),
            ),
            total_blocks=case.running * own,
        )
        self._finish(case.finished)
        for _ in range(case.running + case.waiting):
            self._submit()
        for _ in range(WARM_UP):
            self._step()
        self._check()

    def run(self, steps: int) -> float:
        """CPU microseconds per running sequence and step, over `steps` steps."""
        before, seconds = self._planned, 0.0
        for _ in range(steps):
            seconds += self._step()
        self._check()
        return seconds / (self._planned - before) * 1e6

    def _step(self) -> float:
        self._now += 1.0
        started = time.thread_time()
        plan = self.scheduler.plan(self._now)
        planned = time.thread_time()
        result = StepResult([TOKEN] * sum(chunk.samples for chunk in plan.chunks))
        resumed = time.thread_time()
        self.scheduler.commit(plan, result, self._now)
        seconds = time.thread_time() - resumed + planned - started
        self._planned += len(plan.chunks)
        for _ in self.scheduler.take_finished():
            self._submit()
        return seconds

    def _submit(self) -> None:
        key = next(self._keys)
        case = self.case
        # Staggered, so that neither ends nor eviction rounds fall into one step.
        prompt = (key, *range(1, PROMPT - key % RECLAIM))
        new = LIFE - key % (LIFE // 2) if case.churn else self._longest
        budget = None
        if case.budgeted:
            budget = Budget(CAP, "window", {}, recent=16, pinned=len(prompt), reclaim=RECLAIM)
        self.scheduler.submit(Request(key, prompt, new, budget=budget, arrival=float(key)))

    def _finish(self, count: int) -> None:
        """Lets so many requests run and end."""
        for _ in range(count):
            key = next(self._keys)
            prompt = (key, *range(1, PROMPT))
            self.scheduler.submit(Request(key, prompt, 1, arrival=float(key)))
        while self.scheduler.num_live:
            plan = self.scheduler.plan(self._now)
            self.scheduler.commit(plan, StepResult([TOKEN] * len(plan.chunks)), self._now)
        self.scheduler.take_finished()

    def _check(self) -> None:
        case, scheduler = self.case, self.scheduler
        rows_used = len(scheduler.running) == case.running or case.churn
        if not rows_used or scheduler.num_live != case.running + case.waiting:
            raise RuntimeError(
                f"{case}: {len(scheduler.running)} run and {scheduler.num_waiting} wait"
            )


def measure(sizes: Sizes) -> list[dict[str, object]]:
    """One row per case."""
    costs: dict[Case, list[float]] = defaultdict(list)  # µs per running sequence and step
    together = [case for case in sizes.cases() if not case.collector]
    alone = [case for case in sizes.cases() if case.collector]
    gc.collect()
    gc.disable()
    try:
        benches = [Bench(case, sizes.steps * sizes.turns) for case in together]
        for _ in range(sizes.turns):
            for bench in benches:
                costs[bench.case].append(bench.run(sizes.steps))
        del benches, bench
    finally:
        gc.enable()
    for case in alone:
        gc.collect()
        bench = Bench(case, sizes.steps * sizes.turns)
        costs[case] = [bench.run(sizes.steps) for _ in range(sizes.turns)]
    return [
        {
            **asdict(case),
            "steps": sizes.steps,
            "turns": sizes.turns,
            "microseconds": median(found),
            "microseconds_least": min(found),
            "microseconds_most": max(found),
        }
        for case, found in costs.items()
    ]


def headline(rows: list[dict[str, object]]) -> dict[str, float]:
    """The ratios; see the module's text."""
    by_case = {
        Case(**{name: row[name] for name in asdict(Case(0))}): float(str(row["microseconds"]))  # type: ignore[arg-type]
        for row in rows
    }
    cases = list(by_case)

    def ratio(group: Iterable[Case], name: str) -> float:
        """Cost at the largest value of a field over that at its smallest."""
        ordered = sorted(group, key=lambda case: int(getattr(case, name)))
        return by_case[ordered[-1]] / by_case[ordered[0]]

    idle = [c for c in cases if not c.waiting]
    queued = [c for c in cases if c.waiting and not c.collector]
    most = max(c.running for c in idle)
    varied = [c for c in idle if not c.finished]
    kinds = sorted({(c.waits_for, c.churn) for c in queued})
    ended = [c for c in idle if c.finished]
    return {
        "ratio_running": max(
            ratio([c for c in varied if c.budgeted is b], "running") for b in (True, False)
        ),
        "ratio_waiting": max(
            ratio([c for c in queued if (c.waits_for, c.churn) == kind], "waiting")
            for kind in kinds
        ),
        "ratio_finished": ratio([*ended, Case(ended[0].running)], "finished"),
        "ratio_collector": ratio([c for c in cases if c.collector], "waiting"),
        "microseconds": by_case[Case(most)],
    }


def show(rows: list[dict[str, object]]) -> None:
    """Prints the rows as a table."""
    names = ("running", "waiting", "finished", "budgeted", "waits_for", "churn", "collector")
    table = Table(*names, "µs per running sequence", "least", "most")
    for row in rows:
        costs = (row[f"microseconds{end}"] for end in ("", "_least", "_most"))
        table.add_row(*(str(row[name]) for name in names), *(f"{cost:.2f}" for cost in costs))
    Console(width=140).print(table)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions.")] = False,
) -> None:
    """Measure what planning costs."""
    rows = measure(QUICK if quick else FULL)
    show(rows)
    results.append("scheduler", [{**row, "quick": quick} for row in rows])
    print(json.dumps(headline(rows)))


if __name__ == "__main__":
    typer.run(main)
