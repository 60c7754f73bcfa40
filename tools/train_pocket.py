"""Trains and ships a pocket model: `python -m tools.train_pocket --model pocket-llama`.

Twenty to thirty minutes on one core. An interrupted run goes on from its last checkpoint.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

from clients.workloads.pocket import FAMILIES, problems
from tools.pocket.architecture import MODELS, build_model
from tools.pocket.evaluate import forecast, score_family
from tools.pocket.export import export, model_card
from tools.pocket.tokenizer import build_tokenizer
from tools.pocket.training import Settings, Trainer


def report(trainer: Trainer, loss: float, checkpoint: Path) -> None:
    """Prints progress, and saves a checkpoint every 160 steps."""
    last = trainer.step == trainer.settings.steps
    if trainer.step % 20 == 0 or last:
        print(f"step {trainer.step} loss {loss:.4f} minutes {trainer.seconds / 60:.1f}", flush=True)
    if trainer.step % 160 == 0 or last:
        trainer.save(checkpoint)
        shares = {
            name: forecast(trainer.model, trainer.tokenizer, problems(name, 32, 0, "tune"))
            for name in FAMILIES
        }
        text = " ".join(f"{name} {share:.2f}" for name, share in shares.items())
        print(f"step {trainer.step} solved {text}", flush=True)


def ship(trainer: Trainer, name: str, out: Path, asked: int) -> None:
    """Exports the model, measures the files through plain transformers and writes their card."""
    export(trainer.model, trainer.tokenizer, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    scores = {}
    for family in FAMILIES:
        scores[family] = score_family(loaded, tokenizer, family, asked)
        print(f"{name} {family} pass@1 {scores[family].pass_at_1:.3f}", flush=True)
    seed, steps = trainer.settings.seed, trainer.settings.steps
    command = f"python -m tools.train_pocket --model {name} --seed {seed} --steps {steps}"
    (out / "README.md").write_text(model_card(name, command, trainer.seconds / 60, scores))


def main(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "pocket-llama",
    seed: Annotated[int, typer.Option(help="Seed of initialisation and text.")] = 1,
    steps: Annotated[int, typer.Option(help="Optimiser steps of 4,096 tokens.")] = 3300,
    out: Annotated[
        Path | None, typer.Option(help="Where to ship it; models/MODEL if not given.")
    ] = None,
    asked: Annotated[int, typer.Option(help="Problems of each family in the card.")] = 300,
    runs: Annotated[Path, typer.Option(help="Where checkpoints go.")] = Path("runs/pocket"),
) -> None:
    """Train a pocket model from scratch, export it in bfloat16 and measure it."""
    if model not in MODELS:
        raise typer.BadParameter(f"{model!r} is none of {', '.join(MODELS)}", param_hint="--model")
    # Two threads on a busy two-core machine were two to seven times slower than one.
    torch.set_num_threads(1)
    trainer = Trainer(build_model(model, seed), build_tokenizer(), Settings(seed, steps))
    checkpoint = runs / f"{model}-{seed}-{steps}.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    trainer.run(lambda trained, loss: report(trained, loss, checkpoint))
    ship(trainer, model, out or Path("models") / model, asked)


if __name__ == "__main__":
    typer.run(main)
