"""What is calibrated in tests: tiny random models, and a pocket model with worked solutions."""

import random
from functools import cache
from pathlib import Path

import torch

from clients.workloads.pocket import FAMILIES, draw
from tests.engine.models import VOCABULARY, tiny_model
from tools.calibrate.subject import Subject, load_subject, make_subject, register_attention
from tools.calibrate.traces import Trace
from tools.pocket.tokenizer import build_tokenizer

POCKET = Path(__file__).parents[3] / "models" / "pocket-llama"


def silent(what: str, done: int, total: int) -> None:
    """A report that nobody reads."""
    assert 0 < done <= total, what


def tiny(architecture: str) -> Subject:
    return make_subject(architecture, tiny_model(architecture, register_attention()), None)


def random_traces(count: int) -> list[Trace]:
    draw = torch.Generator().manual_seed(3)
    return [
        Trace(tuple(torch.randint(3, VOCABULARY, (30 + i,), generator=draw).tolist()), 4 + i)
        for i in range(count)
    ]


@cache
def pocket() -> Subject:
    return load_subject(str(POCKET))


def solved(count: int) -> list[Trace]:
    """Perfect answers of the pocket model's families, one after the other."""
    tokenizer, rng = build_tokenizer(), random.Random(5)
    traces = []
    for i in range(count):
        family = list(FAMILIES.values())[i % len(FAMILIES)]
        instance = draw(family, rng, 0.3, "train")
        prompt = tokenizer.encode(f"<s>{instance.prompt}<think>").ids
        traces.append(Trace((*prompt, *tokenizer.encode(instance.completion).ids), len(prompt)))
    return traces
