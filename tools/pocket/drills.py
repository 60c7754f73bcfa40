"""Exercises for the skills the families are made of, which task data alone teaches too late.

Repeating random text builds the look-up circuit: without it, Pass@1 stayed at zero for millions of
tokens.
"""

import random
from collections.abc import Callable

from tools.pocket.tokenizer import keys

Drill = Callable[[random.Random], tuple[str, str]]
"""Draws a prompt and the completion a perfect model writes after `<think>`."""

KEYS = keys()


def repeat(rng: random.Random) -> tuple[str, str]:
    """Write a random string again."""
    pieces = [*"0123456789+=;:", *KEYS]
    text = "".join(rng.choices(pieces, k=rng.randint(6, 70)))
    return f"rep {text}", text


def look_up(rng: random.Random) -> tuple[str, str]:
    """Write each key of a table once, in order, with the latest of its values."""
    entries = rng.randint(3, 24)
    pairs = [(rng.choice(KEYS), rng.randrange(10)) for _ in range(entries)]
    table = dict(pairs)
    text = "".join(f"{key}{value};" for key, value in pairs)
    return f"get {text}", "".join(f"{key}{value};" for key, value in table.items())


def add(rng: random.Random) -> tuple[str, str]:
    """Sums of two digits, modulo ten."""
    pairs = [(rng.randrange(10), rng.randrange(10)) for _ in range(rng.randint(2, 16))]
    asked = "".join(f"{left}{right};" for left, right in pairs)
    answer = "".join(f"{left}+{right}={(left + right) % 10};" for left, right in pairs)
    return f"add {asked}", answer


DRILLS: dict[str, Drill] = {"repeat": repeat, "look_up": look_up, "add": add}
