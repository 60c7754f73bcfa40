"""The training loop: step-based and seeded, so that a command names its result."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional

from tools.pocket.data import IGNORED, ROUND, Curriculum, draw_round, labels_of


@dataclass(frozen=True)
class Settings:
    """How long and how hard to train."""

    seed: int
    steps: int
    warmup: int = 100
    floor: float = 0.03
    """Where the cosine ends, as a share of the peak."""
    matrix_rate: float = 0.02
    other_rate: float = 4e-3
    clip: float = 1.0
    curriculum: Curriculum = field(default_factory=Curriculum)

    def rate(self, step: int) -> float:
        """The learning rate of a step as a share of its peak."""
        warm = min(1.0, (step + 1) / self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return warm * (self.floor + (1 - self.floor) * cosine)


class Trainer:
    """A model, its optimisers and where the run stands. Knows nothing of files but checkpoints."""

    def __init__(self, model: Any, tokenizer: Tokenizer, settings: Settings) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.step = 0
        self.seconds = 0.0
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, parameter in model.named_parameters():
            (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
        muon = torch.optim.Muon(
            matrices, lr=1.0, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original"
        )
        adam = torch.optim.AdamW(others, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0)
        self.optimisers: list[tuple[torch.optim.Optimizer, float]] = [
            (muon, settings.matrix_rate),
            (adam, settings.other_rate),
        ]

    def batches(self) -> Iterator[torch.Tensor]:
        """What is left of the run's batches, [rows, width] each, from the current step on."""
        while self.step < self.settings.steps:
            index = self.step // ROUND
            progress = index * ROUND / self.settings.steps
            seed, curriculum = self.settings.seed, self.settings.curriculum
            drawn = draw_round(self.tokenizer, seed, index, progress, curriculum)
            yield from drawn[self.step % ROUND :][: self.settings.steps - self.step]

    def train_step(self, batch: torch.Tensor) -> float:
        """One optimiser step; returns the mean loss over the completion's tokens, in nats."""
        labels = labels_of(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(input_ids=batch, use_cache=False).logits
        wanted = labels != IGNORED
        loss = functional.cross_entropy(logits[wanted].float(), labels[wanted])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for optimiser, peak in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = peak * self.settings.rate(self.step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def run(self, after_step: Callable[["Trainer", float], None]) -> None:
        """Trains to the end; `after_step` gets this trainer and the loss."""
        self.model.train()
        started = time.perf_counter() - self.seconds
        for batch in self.batches():
            loss = self.train_step(batch)
            self.seconds = time.perf_counter() - started
            after_step(self, loss)

    def save(self, path: Path) -> None:
        """Writes all that is needed to go on; the old file stays until the new one is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser, _ in self.optimisers],
            "step": self.step,
            "seconds": self.seconds,
            "run": (self.settings.seed, self.settings.steps),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint of the same run; ValueError if it is another run's."""
        state = torch.load(path, weights_only=True)
        if tuple(state["run"]) != (self.settings.seed, self.settings.steps):
            raise ValueError(f"{path} belongs to seed and steps {state['run']}, not to this run")
        self.model.load_state_dict(state["model"])
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
