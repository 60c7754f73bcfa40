"""Training text as padded batches, a pure function of the seed and how far the run has come.

Batches are drawn in rounds, so that a resumed run can draw again what it had not yet used.
"""

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from clients.workloads.pocket import FAMILIES, draw
from tools.pocket.drills import DRILLS
from tools.pocket.tokenizer import BOS, EOS, PAD_ID, THINK, THINK_ID

ROUND = 16
"""Batches drawn, sorted by length and cut at a time: padding shrinks as a round grows."""
BATCH_TOKENS = 4096
WIDTH_STEP = 32
IGNORED = -100
"""The label that torch's cross entropy leaves out."""


@dataclass(frozen=True)
class Curriculum:
    """What is practised when; `progress` runs from 0 to 1 over the run."""

    warm_share: float = 0.11
    warm: tuple[tuple[str, float], ...] = (("repeat", 0.5), ("look_up", 0.15), ("add", 0.2))
    steady: tuple[tuple[str, float], ...] = (("repeat", 0.02), ("look_up", 0.03), ("add", 0.03))
    families: tuple[tuple[str, float], ...] = (
        ("hop", 1.0),
        ("acct", 1.2),
        ("memo", 1.2),
        ("duo", 1.1),
        ("grid", 0.7),
    )
    smallest: float = 0.15
    largest: float = 1.08
    """Just past the largest size asked, which would otherwise sit at the edge of what was seen."""
    full_size_at: float = 0.5

    def shares(self, progress: float) -> dict[str, float]:
        """The chance of each drill and family; sums to 1."""
        drills = dict(self.warm if progress < self.warm_share else self.steady)
        rest = 1.0 - sum(drills.values())
        total = sum(weight for _, weight in self.families)
        return drills | {name: rest * weight / total for name, weight in self.families}

    def size(self, rng: random.Random, progress: float) -> float:
        """A problem size. Short ones stay in the mix to the end, or the model forgets them."""
        ramp = min(1.0, progress / self.full_size_at)
        return rng.uniform(0.2, 1.0) * (self.smallest + ramp * (self.largest - self.smallest))


def render(prompt: str, completion: str) -> str:
    """What the chat template makes of the prompt, and the completion with its end token."""
    return f"{BOS}{prompt}{THINK}{completion}{EOS}"


def draw_round(
    tokenizer: Tokenizer, seed: int, index: int, progress: float, curriculum: Curriculum
) -> list[torch.Tensor]:
    """One round of `ROUND` batches, each [rows, width] token ids with right padding."""
    rng = random.Random(f"{seed}:{index}")
    shares = curriculum.shares(progress)
    texts: list[list[int]] = []
    # Up to a batch is lost at the cut, so one more than needed is drawn.
    missing = (ROUND + 1) * BATCH_TOKENS
    while missing > 0:
        name = rng.choices(list(shares), weights=list(shares.values()))[0]
        if name in DRILLS:
            prompt, completion = DRILLS[name](rng)
        else:
            instance = draw(FAMILIES[name], rng, curriculum.size(rng, progress), "train")
            prompt, completion = instance.prompt, instance.completion
        ids = tokenizer.encode(render(prompt, completion)).ids
        texts.append(ids)
        missing -= padded(len(ids))
    batches = cut(texts)
    rng.shuffle(batches)
    return batches[:ROUND]


def padded(length: int) -> int:
    """Widths are multiples of 32, so that few different shapes are allocated."""
    return -(-length // WIDTH_STEP) * WIDTH_STEP


def cut(texts: list[list[int]]) -> list[torch.Tensor]:
    """Batches of about `BATCH_TOKENS`, rows of like length together, one text a row."""
    texts = sorted(texts, key=len, reverse=True)
    batches = []
    while texts:
        width = padded(len(texts[0]))
        rows = max(1, BATCH_TOKENS // width)
        taken, texts = texts[:rows], texts[rows:]
        batch = torch.full((len(taken), width), PAD_ID)
        for row, ids in enumerate(taken):
            batch[row, : len(ids)] = torch.tensor(ids)
        batches.append(batch)
    return batches


def labels_of(batch: torch.Tensor) -> torch.Tensor:
    """The next token of each position, [rows, width]; `IGNORED` for the prompt and padding."""
    following = torch.roll(batch, -1, dims=1)
    following[:, -1] = PAD_ID
    reasoning = (batch == THINK_ID).cumsum(dim=1) > 0
    return following.masked_fill(~reasoning | (following == PAD_ID), IGNORED)
