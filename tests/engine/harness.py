"""Runs requests on a ModelRunner under a real scheduler, and records every row of logits."""

import atexit
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.attention import register_attention
from engine.batch import Chunks
from engine.config import EngineConfig
from engine.flight import StepInFlight
from engine.kv_pool import KvShape
from engine.loader import adopt_model
from engine.runner import ModelRunner
from engine.static_steps import Result
from scheduler.config import SchedulerConfig
from scheduler.plan import StepPlan
from scheduler.request import FinishReason, Request, Sequence, Usage
from scheduler.scheduler import Scheduler
from tests.engine.eviction.artifacts import random_artifacts
from tests.engine.models import tiny_model


class RecordingRunner(ModelRunner):
    """A ModelRunner that keeps the logits of every draw: (request key, output, position)."""

    rows: dict[tuple[int, int, int], torch.Tensor]
    rounds: dict[tuple[int, int], dict[int, int]]  # entries left by position, of each output
    mixed_steps = 0  # steps with both decodes and prefill

    def launch(self, plan: StepPlan) -> StepInFlight:
        counts = {chunk.count > 1 for chunk in plan.chunks}
        self.mixed_steps += len(counts) == 2
        for eviction in plan.evictions:
            rounds = self.rounds.setdefault(_name(eviction.sequence), {})
            rounds[eviction.position] = eviction.keep
        return super().launch(plan)

    def choose_blocks(self, sequence: Sequence, candidates: list[int], count: int) -> list[int]:
        left = sequence.kv_tokens - count * self._config.scheduler.block_size
        self.rounds.setdefault(_name(sequence), {})[sequence.computed] = left
        return super().choose_blocks(sequence, candidates, count)

    def _run(self, plan: StepPlan, chunks: Chunks) -> Result:
        tokens, logits = super()._run(plan, chunks)
        drawn = [chunk for chunk in plan.chunks if chunk.samples]
        for chunk, row in zip(drawn, logits, strict=True):
            sequence = chunk.sequence
            key = (sequence.request.key, sequence.output, chunk.start + chunk.count - 1)
            self.rows[key] = row.clone()
        return tokens, logits


@dataclass
class Outcome:
    """What came of one output."""

    tokens: list[int] = field(default_factory=list)  # drawn
    reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)


def make_runner(
    architecture: str, model: Any = None, files: Path | None = None, **changes: Any
) -> RecordingRunner:
    """A runner for a tiny model; `changes` go to SchedulerConfig or EngineConfig by name.

    Policies that need a file find it in the directory `files`; without one, random ones.
    """
    scheduling = {k: changes.pop(k) for k in list(changes) if k in SchedulerConfig.__annotations__}
    settings = {"max_running": 8, "max_batch_tokens": 24, **scheduling}
    loaded = adopt_model(model or tiny_model(architecture, register_attention()), None)
    config = EngineConfig(
        model=str(files or model_directory(loaded.shape)),
        scheduler=SchedulerConfig(**settings),
        **{"name": architecture, "kv_blocks": 64, "threads": 1, "device": "cpu", **changes},
    )
    runner = RecordingRunner(config, loaded)
    runner.rows, runner.rounds = {}, {}
    return runner


@cache
def model_directory(shape: KvShape) -> Path:
    """A directory with a random file for every policy that needs one; gone when Python ends."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    for policy, tensors in random_artifacts(shape).items():
        save_file(tensors, Path(directory.name) / f"{policy}.safetensors")
    return Path(directory.name)


def run(
    runner: ModelRunner, requests: list[Request], stagger: int = 0
) -> dict[tuple[int, int], Outcome]:
    """Runs requests to their ends, one more submitted every `stagger` steps; by (key, output)."""
    scheduler = Scheduler(runner._config.scheduler, runner.total_blocks, runner.choose_blocks)
    outcomes: dict[tuple[int, int], Outcome] = {}
    queue, step = list(requests), 0
    while queue or scheduler.num_live:
        while queue and (stagger == 0 or step % stagger == 0):
            scheduler.submit(queue.pop(0))
            if stagger:
                break
        plan = scheduler.plan(now=float(step))
        if not plan.empty:
            scheduler.commit(plan, runner.execute(plan), now=float(step))
        scheduler.check()
        for sequence, reason in scheduler.take_finished():
            outcomes[_name(sequence)] = Outcome(
                sequence.tokens[sequence.prompt_tokens :], reason, sequence.usage
            )
        step += 1
    return outcomes


def _name(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.key, sequence.output
