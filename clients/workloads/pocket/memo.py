"""memo: a recurrence that reaches far back, so every value is needed again after a long gap.

`memo 0479;18`: a[0...3] are the seed digits; then 18 times a[i] = (a[j] + a[i-1]) mod 10, with
j = i//2 where a[i-1] < 5 and j = i//3 elsewhere: `17:02>7+305>0;`. The countdown says when to stop:
comparing i with a last index was still not learned when all else was.
"""

import random

from clients.workloads.pocket.base import (
    Instance,
    last_three,
    steps_for,
    varied,
)

LARGEST = 40


class Memo:
    name = "memo"

    def prompt(self, rng: random.Random, seed: str, size: float) -> str:
        return f"{self.name} {seed};{steps_for(size, LARGEST)}"

    def solve(self, prompt: str) -> Instance | None:
        seed, steps = prompt.removeprefix(f"{self.name} ").split(";")
        values = [int(digit) for digit in seed]
        lines = [f"{index:02}>{value};" for index, value in enumerate(values)]
        for left in range(int(steps), 0, -1):
            index, newest = len(values), values[-1]
            source = index // 2 if newest < 5 else index // 3
            values.append((values[source] + newest) % 10)
            lines.append(f"{left}:{source:02}>{values[source]}+{newest}{index:02}>{values[-1]};")
        return Instance(prompt, "".join(lines), last_three(values)) if varied(values) else None
