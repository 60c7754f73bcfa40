"""What eviction costs while decoding: its share of the engine's time, for every policy.

    python -m benchmarks.eviction            both workloads, one thread, about 6 minutes
    python -m benchmarks.eviction --quick    one budget and fewer steps, under a minute

Outputs decode at random, each at its budget with the default reclaim. No server: plans go straight
to the runner. Caches are filled with noise up to the budget rather than computed; only steps after
that are measured. Times are of the thread's own clock, which other processes on the machine disturb
less. Appends to benchmarks/results/eviction.jsonl.
"""

import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and numba are loaded
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import results
from benchmarks.inprocess import budget_of
from clients.demo import MODELS_DIRECTORY
from engine.attention import register_attention
from engine.config import EngineConfig, SchedulerConfig
from engine.eviction import POLICIES
from engine.loader import LoadedModel, adopt_model
from engine.runner import ModelRunner
from scheduler.plan import StepPlan, StepResult
from scheduler.request import Request, Sampling
from scheduler.scheduler import Scheduler

WARM_UP = 8  # steps


@dataclass(frozen=True)
class Workload:
    """A model's shape, and how many outputs it decodes at which budgets."""

    name: str
    budgets: tuple[int, ...]
    running: int
    steps: int
    layers: int | None = None  # with the heads of R1-Distill-Llama-8B; None: pocket-llama's files

    def load(self) -> LoadedModel | None:
        """The model in memory; None where the runner loads it."""
        if self.layers is None:
            return None
        # A fraction of the real width, so decoding is cheaper than it would be, and shares higher.
        config = LlamaConfig(
            vocab_size=512,
            hidden_size=1024,
            intermediate_size=3584,
            num_hidden_layers=self.layers,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            max_position_embeddings=8192,
        )
        config._attn_implementation = register_attention()
        return adopt_model(LlamaForCausalLM(config), None)


POCKET = Workload("pocket-llama", budgets=(96, 128, 256), running=64, steps=160)
LARGE = Workload("32/8 heads of 128, 2 layers", (2500, 5000), running=8, steps=128, layers=2)


@dataclass(frozen=True)
class Cost:
    """One policy at one budget; milliseconds of one step, means."""

    workload: str
    running: int
    policy: str
    budget: int
    reclaim: int
    evictions: float  # sequences
    eviction_ms: float
    rest_ms: float  # of scheduling, the forward pass and the draws

    @property
    def share(self) -> float:
        return self.eviction_ms / (self.eviction_ms + self.rest_ms)


class Clock:
    """Thread time spent inside some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.thread_time() - started

        return timed


def requests(workload: Workload, policy: str, budget: int) -> list[Request]:
    """Requests whose rounds do not coincide: by prompt length, over one reclaim."""
    draw = random.Random(0)
    made = []
    for key in range(workload.running):
        least, most = 20, 20 + max(budget // 16, 32)
        prompt = tuple(draw.randrange(256) for _ in range(draw.randrange(least, most)))
        longest = budget + 1000  # new tokens; nothing ends while it is measured
        resolved = budget_of(budget, policy, len(prompt), longest)
        made.append(Request(key, prompt, longest, sampling=Sampling(seed=key), budget=resolved))
    return made


def fill(runner: ModelRunner, scheduler: Scheduler, budget: int) -> int:
    """Brings every output to its budget on the books only, and noise into the caches; steps."""
    pool, ring = runner._evictor._views.pool, runner._ring
    assert ring is not None
    for tensor in (pool.keys, pool.values, ring._queries):
        tensor.normal_()
    pool.mass.uniform_()
    step = 0
    while min((s.computed for s in scheduler.running), default=0) < budget + 2 * 128:
        plan = scheduler.plan(now=float(step))
        scheduler.commit(plan, _made_up(plan), now=float(step))
        step += 1
    return step


def measure(workload: Workload, loaded: LoadedModel | None, policy: str, budget: int) -> Cost:
    """Decodes at the budget and measures."""
    settings = SchedulerConfig(max_running=workload.running, prefix_cache=False)
    config = EngineConfig(
        model=str(MODELS_DIRECTORY / "pocket-llama"),
        device="cpu",
        threads=1,
        kv_blocks=workload.running * -(-budget // settings.block_size),
        scheduler=settings,
    )
    runner = ModelRunner(config, loaded)
    scheduler = Scheduler(settings, runner.total_blocks, runner.choose_blocks)
    made = requests(workload, policy, budget)
    for request in made:
        scheduler.submit(request)
    clock = Clock()
    for name in ("evict", "before_forward", "choose_blocks"):
        setattr(runner._evictor, name, clock.around(getattr(runner._evictor, name)))
    first = fill(runner, scheduler, budget)
    whole = 0.0
    rounds = scheduler.totals.rounds[policy]
    for step in range(first, first + WARM_UP + workload.steps):
        if step == first + WARM_UP:
            clock.seconds, rounds = 0.0, scheduler.totals.rounds[policy]
            whole = -time.thread_time()
        plan = scheduler.plan(now=float(step))
        scheduler.commit(plan, runner.execute(plan), now=float(step))
    whole += time.thread_time()
    done = scheduler.totals.rounds[policy] - rounds
    per_step = 1000 / workload.steps
    assert made[0].budget is not None
    return Cost(
        workload=workload.name,
        running=workload.running,
        policy=policy,
        budget=budget,
        reclaim=made[0].budget.reclaim,
        evictions=done / workload.steps,
        eviction_ms=clock.seconds * per_step,
        rest_ms=(whole - clock.seconds) * per_step,
    )


def table(costs: list[Cost]) -> Table:
    """A row for each policy, a column for each budget of one workload."""
    budgets = sorted({cost.budget for cost in costs})
    drawn = Table(title=f"Eviction's share of the time: {costs[0].workload}, default reclaim")
    drawn.add_column("policy")
    for budget in budgets:
        drawn.add_column(f"{budget} tokens", justify="right")
    for policy in dict.fromkeys(cost.policy for cost in costs):
        own = {cost.budget: cost for cost in costs if cost.policy == policy}
        drawn.add_row(
            policy,
            *(
                f"{own[b].eviction_ms:.2f} of {own[b].eviction_ms + own[b].rest_ms:.1f} ms, "
                f"{own[b].share:.1%}"
                for b in budgets
            ),
        )
    return drawn


def run(workload: Workload, names: list[str], budgets: tuple[int, ...]) -> list[Cost]:
    """All policies that this workload's model has what they need for."""
    torch.manual_seed(0)
    loaded = workload.load()
    usable = [n for n in names if loaded is None or not POLICIES[n].needs_artifact]
    return [measure(workload, loaded, name, budget) for name in usable for budget in budgets]


def _made_up(plan: StepPlan) -> StepResult:
    return StepResult([7] * sum(chunk.samples for chunk in plan.chunks))


def main(
    policies: Annotated[str, typer.Option(help="comma-separated; default: all")] = "",
    quick: Annotated[bool, typer.Option("--quick", help="pocket-llama at 128 only")] = False,
) -> None:
    """Measures, prints the tables, appends the rows."""
    names = policies.split(",") if policies else list(POLICIES)
    for workload in (POCKET,) if quick else (POCKET, LARGE):
        costs = run(workload, names, (128,) if quick else workload.budgets)
        Console().print(table(costs))
        if not quick:
            rows = [{**asdict(cost), "share": cost.share} for cost in costs]
            results.append("eviction", rows)


if __name__ == "__main__":
    typer.run(main)
