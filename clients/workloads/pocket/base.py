"""What a pocket task family is, and which of its problems may be trained on.

A family turns a short prompt into a long worked solution. The prompt carries only a seed: all that
is looked up later is derived in the trace, so a KV budget that spares the prompt still bites.
"""

import random
import zlib
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "tune", "eval"]

SEED_DIGITS = 4
EVAL_SIZES = (0.25, 1.0)
"""Problem sizes that are asked, as a share of the family's largest: uniform in this range."""


@dataclass(frozen=True)
class Instance:
    """One problem, worked out."""

    prompt: str
    trace: str
    answer: str

    @property
    def completion(self) -> str:
        """What a perfect model writes after the opening `<think>`."""
        return f"{self.trace}</think>\\boxed{{{self.answer}}}"


class Family(Protocol):
    """One kind of problem. Knows nothing of splits, models or scoring."""

    name: str

    def prompt(self, rng: random.Random, seed: str, size: float) -> str:
        """A problem over the digits `seed`; `size` is a share of the largest one asked."""
        ...

    def solve(self, prompt: str) -> Instance | None:
        """The problem worked out by its rules, or None where it degenerates into a loop."""
        ...


def split_of(family: str, seed: str) -> Split:
    """The split that owns these seed digits: a tenth each for eval and tune, the rest for train.

    By the digits alone, whatever the problem's size or table names, so no table that is
    evaluated was ever derived in training. `tune` is for choosing settings.
    """
    bucket = zlib.crc32(f"{family}:{seed}".encode()) % 10
    if bucket == 0:
        return "eval"
    return "tune" if bucket == 1 else "train"


def draw(family: Family, rng: random.Random, size: float, split: Split) -> Instance:
    """A problem of one split that does not degenerate; `size` as in `Family.prompt`."""
    while True:
        seed = "".join(rng.choices("0123456789", k=SEED_DIGITS))
        if split_of(family.name, seed) != split:
            continue
        instance = family.solve(family.prompt(rng, seed, size))
        if instance is not None:
            return instance


def derive(names: list[str], seed: str) -> tuple[list[int], str]:
    """The values of `names` from four seed digits, and the text that derives them.

    The first four are the digits; then v[i] = (v[i-4] + v[i-1]) mod 10. What was looked up is
    written down before the sum, and every value stands right behind its key: `a>6+7e>3;`.
    """
    values = [int(digit) for digit in seed]
    text = [f"{name}>{value};" for name, value in zip(names, values, strict=False)]
    for index in range(SEED_DIGITS, len(names)):
        older, newer = values[index - SEED_DIGITS], values[index - 1]
        values.append((older + newer) % 10)
        text.append(f"{names[index - SEED_DIGITS]}>{older}+{newer}{names[index]}>{values[index]};")
    return values, "".join(text)


def last_three(values: list[int]) -> str:
    """The answer of every family: three digits keep a lucky guess near zero."""
    return "".join(str(value) for value in values[-3:])


def steps_for(size: float, largest: int) -> int:
    """The number of steps at a share of the largest; never fewer than the answer has digits."""
    return max(3, round(size * largest))


def varied(values: list[int]) -> bool:
    """Whether values differ enough to be worth looking up: seeds of 0 and 5 never leave {0, 5}."""
    return len(set(values)) >= 4


def wanders(keys: list[str]) -> bool:
    """Whether the last 20 steps visit many different keys, i.e. are not in a short cycle."""
    return len(set(keys[-20:])) >= min(6, (len(keys) + 1) // 2)
