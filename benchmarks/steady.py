"""Steady decoding on the engine: every output at its budget, or half way through its trace.

Plans go from the scheduler straight to the runner. Caches are brought to their size on the books
only and filled with noise: what is in them changes neither the reads nor the arithmetic.
"""

import statistics
import time
from dataclasses import dataclass

from benchmarks.inprocess import budget_of
from benchmarks.shapes import Shape
from benchmarks.timing import finish, pick
from engine.config import EngineConfig, SchedulerConfig
from engine.loader import LoadedModel
from engine.runner import ModelRunner
from engine.steps import Steps
from scheduler.budget import default_reclaim
from scheduler.plan import StepResult
from scheduler.request import Request, Sampling
from scheduler.scheduler import Scheduler

BLOCK = SchedulerConfig.block_size
MOST_RUNNING = 512
WARM_UP = 32  # steps before the timed ones: compilations, captures, one round of many
MADE_UP = 7  # the token that stands for those that are not computed


@dataclass(frozen=True)
class Work:
    """One measurement: a pool, and outputs that fill it."""

    shape: Shape
    kv_blocks: int
    budget: int | None  # KV tokens; None: the whole cache
    policy: str
    seconds: float  # of timed steps, at most

    @property
    def held(self) -> int:
        """Tokens each output holds when timing starts, about."""
        return self.shape.trace // 2 if self.budget is None else self.budget

    @property
    def running(self) -> int:
        """Outputs that the pool holds; without a budget they go on growing while timed."""
        growth = 0
        if self.budget is None:
            growth = WARM_UP + self.shape.steps + default_reclaim(self.held) + BLOCK
        return min(self.kv_blocks // -(-(self.held + growth) // BLOCK), MOST_RUNNING)

    @property
    def prompt(self) -> int:
        """Tokens of the shortest prompt."""
        return min(self.held // 8, 128)


@dataclass(frozen=True)
class Steady:
    """What came of it."""

    steps: int
    seconds: float
    median_step: float  # seconds
    held: float  # tokens per output, mean over outputs and steps
    rounds: int  # evictions of one output
    kv_bytes_per_token: int
    kernels: str
    running: int

    @property
    def tokens_per_second(self) -> float:
        return self.running * self.steps / self.seconds


def decode(work: Work, loaded: LoadedModel, device: str) -> Steady:
    """Fills the pool with outputs, then times steps, evictions among them.

    Raises:
        RuntimeError: not all outputs run, or one ended.
    """
    settings = SchedulerConfig(
        max_running=work.running,
        max_batch_tokens=max(work.running, SchedulerConfig.max_batch_tokens),
        prefix_cache=False,
    )
    config = EngineConfig(
        model=work.shape.name,
        device=device,
        threads=1 if device == "cpu" else None,
        kv_blocks=work.kv_blocks,
        scheduler=settings,
    )
    runner = ModelRunner(config, loaded)
    scheduler = Scheduler(settings, runner.total_blocks, runner.choose_blocks)
    for request in requests(work):
        scheduler.submit(request)
    fill(runner, scheduler, work)
    steps = Steps(scheduler, runner)
    for _ in range(WARM_UP):
        steps.step()
    return _timed(runner, scheduler, steps, work)


def requests(work: Work) -> list[Request]:
    """Requests whose rounds do not coincide: prompts differ by up to one reclaim."""
    spread = default_reclaim(work.held)
    made = []
    for key in range(work.running):
        length = work.prompt + key * spread // work.running
        prompt = tuple((key + i) % work.shape.sizes["vocab_size"] for i in range(length))
        longest = work.shape.trace - length
        budget = budget_of(work.budget or 0, work.policy, length, longest)
        made.append(Request(key, prompt, longest, sampling=Sampling(seed=key), budget=budget))
    return made


def fill(runner: ModelRunner, scheduler: Scheduler, work: Work) -> None:
    """Brings every output to the tokens it holds, through a first round where it has a budget."""
    pool, ring = runner._evictor._views.pool, runner._ring
    assert ring is not None
    for tensor in (pool.keys, pool.values, ring._queries):
        tensor.normal_()
    pool.mass.uniform_()
    target = work.held if work.budget is None else work.held + default_reclaim(work.held)
    while min((s.computed for s in scheduler.running), default=0) < target:
        plan = scheduler.plan(now=0.0)
        made_up: list[int | None] = [MADE_UP] * sum(chunk.samples for chunk in plan.chunks)
        scheduler.commit(plan, StepResult(made_up), now=0.0)
        if len(scheduler.running) < work.running and not any(c.count > 1 for c in plan.chunks):
            raise RuntimeError(f"{len(scheduler.running)} of {work.running} outputs have room")


def _timed(runner: ModelRunner, scheduler: Scheduler, steps: Steps, work: Work) -> Steady:
    device = pick(runner.describe().device)
    policy = work.policy
    before, held = scheduler.totals.rounds[policy], 0
    taken: list[float] = []
    finish(device)
    started = last = time.perf_counter()
    while len(taken) < work.shape.steps and last - started < work.seconds:
        plan, _ = steps.step()
        if len(plan.chunks) != work.running:
            raise RuntimeError(f"{len(plan.chunks)} of {work.running} outputs decoded in a step")
        held += sum(chunk.kv_start + 1 for chunk in plan.chunks)
        now = time.perf_counter()
        taken.append(now - last)
        last = now
    finish(device)
    described = runner.describe()
    return Steady(
        steps=len(taken),
        seconds=time.perf_counter() - started,
        median_step=statistics.median(taken),
        held=held / len(taken) / work.running,
        rounds=scheduler.totals.rounds[policy] - before,
        kv_bytes_per_token=described.kv_bytes_per_token,
        kernels=described.kernels,
        running=work.running,
    )
