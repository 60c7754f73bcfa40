"""How long prompts and answers are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from clients.errors import LoadError

if TYPE_CHECKING:  # --help needs no numpy
    import numpy as np

Shape = Literal["fixed", "uniform", "normal", "lognormal"]
SHAPES = "512, 128:1024, normal:MEAN,SD or lognormal:MEAN,SD"


@dataclass(frozen=True)
class Length:
    """A distribution of lengths, in tokens."""

    shape: Shape
    first: float  # fixed: the length; uniform: the least; else the mean
    second: float = 0.0  # uniform: the most (included); else the standard deviation

    def __str__(self) -> str:
        match self.shape:
            case "fixed":
                return f"{self.first:g}"
            case "uniform":
                return f"{self.first:g}:{self.second:g}"
        return f"{self.shape}:{self.first:g},{self.second:g}"

    @property
    def most(self) -> int | None:
        """The longest there can be; None where the distribution has no end."""
        return {"fixed": int(self.first), "uniform": int(self.second)}.get(self.shape)

    def draw(self, random: np.random.Generator) -> int:
        """One length, at least 1. Mean and deviation are those of the length, not of its log."""
        match self.shape:
            case "fixed":
                return int(self.first)
            case "uniform":
                return int(random.integers(int(self.first), int(self.second) + 1))
            case "normal":
                value = random.normal(self.first, self.second)
            case "lognormal":
                variance = math.log1p((self.second / self.first) ** 2)
                value = random.lognormal(math.log(self.first) - variance / 2, math.sqrt(variance))
        return max(1, round(value))


def parse_length(text: str) -> Length:
    """ "512", "128:1024" or "lognormal:300,200" as a Length; LoadError where it is none."""
    shape, separator, rest = text.strip().partition(":")
    try:
        if shape in ("normal", "lognormal"):
            mean, deviation = (float(part) for part in rest.split(","))
            if 1 <= mean < math.inf and 0 <= deviation < math.inf:
                return Length(shape, mean, deviation)  # type: ignore[arg-type]
        elif separator:
            least, most = int(shape), int(rest)
            if 1 <= least <= most:
                return Length("uniform", least, most)
        elif int(shape) >= 1:
            return Length("fixed", int(shape))
    except ValueError:
        pass
    raise LoadError(
        f"got the length {text!r}; want {SHAPES}: whole tokens, at least 1, the smaller one first"
    )
