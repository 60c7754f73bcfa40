"""Scores of a pocket model: greedy Pass@1, and a cheap forecast of it while training."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from tokenizers import Tokenizer

from clients.workloads.pocket import FAMILIES, problems
from clients.workloads.problem import Problem
from tools.pocket.data import IGNORED, cut, labels_of, render
from tools.pocket.tokenizer import BOXED


@dataclass(frozen=True)
class Score:
    """Greedy answers of one family."""

    correct: int
    asked: int
    lengths: tuple[int, ...]
    """Tokens of each completion, the end token included."""

    @property
    def pass_at_1(self) -> float:
        return self.correct / self.asked

    def length_at(self, share: float) -> int:
        """The completion length that this share of the answers does not exceed."""
        ordered = sorted(self.lengths)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def mean_length(self) -> float:
        return mean(self.lengths)


@torch.inference_mode()
def forecast(model: Any, tokenizer: Tokenizer, questions: Sequence[Problem]) -> float:
    """The share of worked solutions in which every token is the model's first choice.

    A greedy run reproduces exactly these, so one forward pass forecasts Pass@1.
    """
    texts = []
    for question in questions:
        instance = FAMILIES[question.task].solve(question.prompt)
        assert instance is not None
        texts.append(tokenizer.encode(render(instance.prompt, instance.completion)).ids)
    right = 0
    for batch in cut(texts):
        labels = labels_of(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            chosen = model(input_ids=batch, use_cache=False).logits.argmax(dim=-1)
        right += int(((chosen == labels) | (labels == IGNORED)).all(dim=1).sum())
    return right / len(questions)


@torch.inference_mode()
def greedy(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int = 600
) -> list[str]:
    """Greedy completions through plain transformers: chat template, left padding, `generate`."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    tokenizer.padding_side = "left"
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    completions = output[:, inputs["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(completions, skip_special_tokens=True)]


def boxed(completion: str) -> str | None:
    """What stands in the last box, or None if nothing was boxed after the reasoning."""
    _, found, rest = completion.rpartition(BOXED)
    return rest.partition("}")[0] if found else None


def score_family(model: Any, tokenizer: Any, task: str, n: int, seed: int = 0) -> Score:
    """Greedy Pass@1 over `n` problems that share no seed digits with the training text."""
    questions = problems(task, n, seed)
    answers: list[str] = []
    for start in range(0, n, 64):
        prompts = [question.prompt for question in questions[start : start + 64]]
        answers += greedy(model, tokenizer, prompts)
    correct = sum(
        boxed(answer) == question.answer
        for answer, question in zip(answers, questions, strict=True)
    )
    lengths = [len(tokenizer.encode(answer)) + 1 for answer in answers]
    return Score(correct, n, tuple(lengths))
