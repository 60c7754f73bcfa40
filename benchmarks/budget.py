"""What a budget buys when the KV pool is the limit: tokens per second against the budget.

    python -m benchmarks.budget            about 10 minutes on 2 cores
    python -m benchmarks.budget --quick    fewer arms and requests, under a minute

The pool holds FIT whole caches of the workload at their full length (more run at once, since caches
grow as they go), and several times as many requests are offered at once.
pocket-llama decodes at random and to the full length, so nothing here is about accuracy. In
process: scheduler and runner, without a server. Arms take turns; tokens per second are of wall
time, medians over the turns. Appends to benchmarks/results/budget.jsonl. The last line on stdout
is one JSON object: for each arm, "POLICY BUDGET", its tokens per second over those of the whole
cache.
"""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the engine process sets it

from benchmarks import results
from benchmarks.inprocess import budget_of
from clients.demo import MODELS_DIRECTORY
from engine.config import EngineConfig, SchedulerConfig
from engine.runner import ModelRunner
from engine.steps import Steps
from scheduler.request import Request, Sampling
from scheduler.scheduler import Scheduler

MODEL = "pocket-llama"
FIT = 16  # whole caches that the pool holds
PROMPT = 24  # tokens
WHOLE = "whole cache"


@dataclass(frozen=True)
class Sizes:
    """What is offered, and to which arms."""

    requests: int
    new_tokens: int  # of each
    budgets: tuple[int, ...]
    policies: tuple[str, ...]
    turns: int
    threads: int = max((os.cpu_count() or 2) // 2, 1)  # of the engine; its default

    @property
    def blocks(self) -> int:
        """Of the pool."""
        return FIT * -(-(PROMPT + self.new_tokens) // SchedulerConfig.block_size)

    def arms(self) -> Iterator[tuple[str, int]]:
        """(policy, budget); a budget of 0 is the whole cache."""
        yield WHOLE, 0
        for policy in self.policies:
            for budget in self.budgets:
                yield policy, budget


FULL = Sizes(96, 700, (96, 128, 192, 256), ("r_kv", "window"), turns=3)
QUICK = Sizes(48, 128, (96,), ("r_kv", "window"), turns=1)


@dataclass(frozen=True)
class Run:
    """One arm once."""

    tokens_per_second: float  # of wall time
    cpu_us_per_token: float  # of this process; other work on the machine disturbs it less
    concurrency: float  # outputs running, mean over the steps
    steps: int
    preemptions: int
    tokens_recomputed: int
    tokens_evicted: int


class Pool:
    """A model with its KV pool, for one workload after the other."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._settings = SchedulerConfig(
            max_running=sizes.requests, max_waiting=sizes.requests, prefix_cache=False
        )
        self._runner = ModelRunner(
            EngineConfig(
                model=str(MODELS_DIRECTORY / MODEL),
                device="cpu",
                threads=sizes.threads,
                kv_blocks=sizes.blocks,
                scheduler=self._settings,
            )
        )

    def run(self, policy: str, budget: int, requests: int) -> Run:
        """Offers so many requests at once and decodes them to their ends."""
        runner = self._runner
        scheduler = Scheduler(self._settings, runner.total_blocks, runner.choose_blocks)
        for key in range(requests):
            scheduler.submit(self._request(key, policy, budget))
        engine = Steps(scheduler, runner)
        steps = running = computed = 0
        started, cpu = time.monotonic(), time.process_time()
        while scheduler.num_live:
            plan, _ = engine.step()
            running += len(plan.chunks)
            computed += plan.tokens
            steps += 1
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
        usages = [sequence.usage for sequence, _ in scheduler.take_finished()]
        drawn = sum(usage.completion_tokens for usage in usages)
        return Run(
            tokens_per_second=drawn / seconds,
            cpu_us_per_token=1e6 * cpu / drawn,
            concurrency=running / steps,
            steps=steps,
            preemptions=sum(usage.preemptions for usage in usages),
            # Of the tokens drawn, the last of each output is not computed.
            tokens_recomputed=computed - drawn - len(usages) * (PROMPT - 1),
            tokens_evicted=sum(usage.kv_tokens_evicted for usage in usages),
        )

    def _request(self, key: int, policy: str, budget: int) -> Request:
        new = self._sizes.new_tokens
        resolved = budget_of(budget, policy, PROMPT, new) if budget else None
        prompt = tuple((7 * key + 13 * i) % 256 for i in range(PROMPT))
        return Request(
            key, prompt, new, sampling=Sampling(seed=key), budget=resolved, arrival=float(key)
        )


def measure(sizes: Sizes) -> list[dict[str, object]]:
    """One row per arm: medians over the turns."""
    pool = Pool(sizes)
    pool.run(sizes.policies[0], sizes.budgets[0], requests=2)  # warm-up
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for _ in range(sizes.turns):
        for policy, budget in sizes.arms():
            runs[policy, budget].append(pool.run(policy, budget, sizes.requests))
    rows = [
        {
            "model": MODEL,
            "policy": policy,
            "budget": budget,
            "kv_blocks": sizes.blocks,
            "requests": sizes.requests,
            "new_tokens": sizes.new_tokens,
            "threads": sizes.threads,
            "turns": sizes.turns,
            **{name: median(asdict(run)[name] for run in found) for name in asdict(found[0])},
        }
        for (policy, budget), found in runs.items()
    ]
    whole = rows[0]["tokens_per_second"]
    return [{**row, "over_whole_cache": row["tokens_per_second"] / whole} for row in rows]


def headline(rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """Each arm's tokens per second over those of the whole cache."""
    return {
        f"{row['policy']} {row['budget']}": row["over_whole_cache"] for row in rows if row["budget"]
    }


def show(rows: Sequence[dict[str, object]]) -> None:
    """Prints the rows as a table."""
    names = ("tokens_per_second", "over_whole_cache", "cpu_us_per_token", "concurrency", "steps",
             "preemptions", "tokens_recomputed", "tokens_evicted")  # fmt: skip
    title = (
        "{model}: {requests} requests of {new_tokens} new tokens, {kv_blocks} KV blocks, "
        "{threads} thread(s)"
    )
    table = Table("policy", "budget", *names, title=title.format(**rows[0]))
    for row in rows:
        values = (f"{row[name]:,.2f}" for name in names)
        table.add_row(str(row["policy"]), str(row["budget"] or "-"), *values)
    Console(width=140).print(table)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer arms and requests.")] = False,
) -> None:
    """Measure throughput against the KV budget."""
    rows = measure(QUICK if quick else FULL)
    show(rows)
    results.append("budget", [{**row, "quick": quick} for row in rows])
    print(json.dumps(headline(rows)))


if __name__ == "__main__":
    typer.run(main)
