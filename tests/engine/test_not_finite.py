"""What is not finite, in a real batch: its request ends, and nobody else notices, then or later."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from clients.workloads.pocket import problems
from engine.config import EngineConfig
from engine.flight import StepInFlight
from engine.runner import ModelRunner
from engine.steps import Steps
from scheduler.budget import BudgetLimits, BudgetRequest, resolve
from scheduler.config import SchedulerConfig
from scheduler.plan import StepPlan
from scheduler.request import FinishReason, Request, Sampling
from scheduler.scheduler import Scheduler

MODEL = Path(__file__).parents[2] / "models" / "pocket-llama"
SICK, AFTER, LONGEST = 2, 12, 36  # a request's key, its tokens before it is spoilt, most of any
SETTINGS = SchedulerConfig(block_size=4, max_running=8, max_batch_tokens=64)
KINDS = {"nan": math.nan, "inf": math.inf, "all -inf": -math.inf}
Answers = dict[int, tuple[FinishReason, list[int]]]


class SpoilingRunner(ModelRunner):
    """Spoils one step of one request: its logits, or its part of the KV cache."""

    spoilt: str | None = None

    def __init__(self, config: EngineConfig) -> None:
        self._draw: int | None = None  # among those of the step
        super().__init__(config)
        self._whole = self._forward.logits_of
        self._forward.logits_of = self._spoil

    def launch(self, plan: StepPlan) -> StepInFlight:
        self._draw = None
        for draw, chunk in enumerate(c for c in plan.chunks if c.samples):
            sequence = chunk.sequence
            tokens = chunk.start + chunk.count - sequence.prompt_tokens
            if (sequence.request.key, tokens) == (SICK, AFTER) and self.spoilt:
                self._draw = draw
                if self.spoilt == "kv":
                    pool = self._batches._pool
                    pool.keys[:, sequence.blocks] = math.nan
                    pool.values[:, sequence.blocks] = math.nan
        return super().launch(plan)

    def _spoil(
        self, ids: torch.Tensor, positions: torch.Tensor, drawn: torch.Tensor
    ) -> torch.Tensor:
        logits = self._whole(ids, positions, drawn)
        if self._draw is not None and self.spoilt in KINDS:
            where = slice(None) if self.spoilt == "all -inf" else slice(5, 6)
            logits[self._draw, where] = KINDS[self.spoilt]
        return logits


@pytest.fixture(scope="module")
def runner() -> SpoilingRunner:
    return SpoilingRunner(
        EngineConfig(str(MODEL), device="cpu", threads=1, kv_blocks=384, scheduler=SETTINGS)
    )


def requests() -> list[Request]:
    """Greedy and drawn, with log-probabilities, with a penalty, under a budget."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    samplings = [
        Sampling(0.0),
        Sampling(0.8, seed=3, logprobs=2),
        Sampling(0.7, seed=4, logprobs=2),  # the sick one
        Sampling(0.9, repetition_penalty=1.3, seed=6),
        Sampling(0.0),
    ]
    made = []
    for key, (sampling, problem) in enumerate(
        zip(samplings, problems("hop", len(samplings), seed=4), strict=True)
    ):
        prompt = tuple(tokenizer(problem.prompt)["input_ids"])
        budget = None
        if key == 4:
            asked = BudgetRequest(len(prompt) + 20, "window", recent_tokens=8, reclaim_tokens=8)
            budget = resolve(
                asked, BudgetLimits(), prompt_tokens=len(prompt), max_new_tokens=LONGEST
            )
        alone = str(key)  # it shares its prompt with nobody but itself, later
        made.append(Request(key, prompt, LONGEST, sampling=sampling, budget=budget, salt=alone))
    return made


def answers(runner: ModelRunner, scheduler: Scheduler) -> Answers:
    """How each request ended, and what it drew; checks that nothing is held afterwards."""
    steps, found = Steps(scheduler, runner), {}
    for request in requests():
        scheduler.submit(request)
    while scheduler.num_live:
        steps.step()
        scheduler.check()
        for sequence, reason in scheduler.take_finished():
            found[sequence.request.key] = reason, sequence.tokens[sequence.prompt_tokens :]
    assert scheduler.kv.pool.held == 0
    return found


@pytest.fixture(scope="module")
def whole(runner: SpoilingRunner) -> Answers:
    """What nobody spoils."""
    found = answers(runner, scheduler_of(runner))
    assert all(reason != FinishReason.ERROR for reason, _ in found.values())
    assert len(found[SICK][1]) > AFTER
    return found


def scheduler_of(runner: ModelRunner) -> Scheduler:
    return Scheduler(SETTINGS, runner.total_blocks, runner.choose_blocks)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("spoilt", [*KINDS, "kv"])
def test_it_ends_its_request_alone(
    runner: SpoilingRunner,
    whole: Answers,
    monkeypatch: pytest.MonkeyPatch,
    spoilt: str,
    overlap: bool,
) -> None:
    monkeypatch.setattr(runner, "overlaps", overlap)
    scheduler = scheduler_of(runner)
    monkeypatch.setattr(runner, "spoilt", spoilt)
    found = answers(runner, scheduler)
    assert found[SICK] == (FinishReason.ERROR, whole[SICK][1][:AFTER])
    assert {**found, SICK: whole[SICK]} == whole
    monkeypatch.setattr(runner, "spoilt", None)
    assert answers(runner, scheduler) == whole, "what it wrote spoils who gets it next"
    assert scheduler.totals.cached_prompt_tokens > 0
