"""Prompts of one length that a model answers with more than one token over and over.

Greedy answers to random ids soon repeat a single token, and such outputs agree by themselves: they
would tell nothing about whether two engines run the same model.
"""

import random
from itertools import cycle, islice

from transformers import AutoTokenizer

from clients.workloads.pocket import DEMO_FAMILIES, problems

SEED = 7003


def problem_prompts(model: str, count: int, tokens: int) -> list[list[int]]:
    """The last `tokens` ids of problems of the pocket families, each with others before it.

    A model that comes without a tokenizer gets random ids below 256.

    Args:
        model: a local directory or a hub id.
        count: of prompts.
        tokens: of each prompt.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError):
        draw = random.Random(SEED)
        return [[draw.randrange(256) for _ in range(tokens)] for _ in range(count)]
    families = [problems(name, -(-count // len(DEMO_FAMILIES)), SEED) for name in DEMO_FAMILIES]
    asked = [problem.prompt for turn in zip(*families, strict=True) for problem in turn][:count]
    ids: list[list[int]] = []
    for text in asked:
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    prompts = []
    for last in range(count):
        backwards = (token for i in cycle(range(count)) for token in reversed(ids[last - i]))
        prompts.append(list(islice(backwards, tokens))[::-1])
    return prompts
