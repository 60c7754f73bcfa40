"""This engine in one process: its steps in a plain loop, without server or pipe."""

import time

from benchmarks.workload import Run, System, Workload
from engine.config import EngineConfig, SchedulerConfig
from engine.eviction import POLICIES
from engine.runner import ModelRunner
from engine.steps import Steps
from scheduler.budget import Budget, BudgetLimits, BudgetRequest
from scheduler.budget import resolve as resolve_budget
from scheduler.request import Request, Sampling
from scheduler.scheduler import Scheduler


class InProcess:
    """A runner on the CPU, and a scheduler of its own for every run."""

    def __init__(self, model: str, threads: int, running: int, tokens: int) -> None:
        """Loads the model, with a pool for `running` outputs of `tokens` KV entries each."""
        # A prompt that comes again is computed again, as the other engines do.
        batch = max(SchedulerConfig.max_batch_tokens, running)
        self._settings = SchedulerConfig(
            max_running=running, max_batch_tokens=batch, prefix_cache=False
        )
        config = EngineConfig(
            model=model,
            device="cpu",
            threads=threads,
            kv_blocks=running * -(-tokens // self._settings.block_size),
            scheduler=self._settings,
        )
        self._runner = ModelRunner(config)

    def run(self, requests: list[Request]) -> Run:
        """Answers all requests, whose keys are 0, 1, 2, ... and which ask for one output each."""
        runner = self._runner
        scheduler = Scheduler(self._settings, runner.total_blocks, runner.choose_blocks)
        engine, tokens = Steps(scheduler, runner), [list[int]() for _ in requests]
        steps = 0
        started = time.perf_counter()
        for request in requests:
            scheduler.submit(request)
        while scheduler.num_live:
            for drawn in engine.step()[1]:
                tokens[drawn.sequence.request.key].append(drawn.token)
            scheduler.take_finished()
            steps += 1
        return Run(tokens, time.perf_counter() - started, steps)


def budget_of(tokens: int, policy: str, prompt_tokens: int, new_tokens: int) -> Budget | None:
    """The budget of a request for so many KV tokens, all else at its default; None for 0.

    Raises:
        InvalidRequest: the budget is too small for what it pins.
    """
    return resolve_budget(
        BudgetRequest(max_tokens=tokens, policy=policy),
        BudgetLimits(),
        prompt_tokens=prompt_tokens,
        max_new_tokens=new_tokens,
        recent_share=POLICIES[policy].recent_share,
        unit=SchedulerConfig.block_size if POLICIES[policy].whole_blocks else 1,
    )


def requests(
    prompts: list[list[int]], new_tokens: int, cap: int | None = None, policy: str = "r_kv"
) -> list[Request]:
    """Greedy requests that nothing but their length ends.

    Args:
        prompts: token ids.
        new_tokens: of each output.
        cap: KV budget in tokens, evicted by `policy`; None: the whole cache.
        policy: a name of engine.eviction.

    Raises:
        InvalidRequest: the budget is too small for what it pins.
    """
    made = []
    for key, prompt in enumerate(prompts):
        budget = budget_of(cap or 0, policy, len(prompt), new_tokens)
        sampling = Sampling(temperature=0.0)
        made.append(Request(key, tuple(prompt), new_tokens, sampling=sampling, budget=budget))
    return made


def sluice(workload: Workload) -> System:
    """This engine with the whole cache."""
    engine = _engine(workload)
    return System("sluice", lambda new: engine.run(requests(workload.prompts, new)), "whole cache")


def sluice_with_budget(workload: Workload, cap: int, policy: str) -> System:
    """This engine with every request under a KV budget of `cap` tokens."""
    engine = _engine(workload)
    return System(
        f"sluice_{policy}_{cap}",
        lambda new: engine.run(requests(workload.prompts, new, cap, policy)),
        f"{policy}, {cap} KV tokens",
    )


def _engine(workload: Workload) -> InProcess:
    return InProcess(workload.model, workload.threads, len(workload.prompts), workload.longest)
