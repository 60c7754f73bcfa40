"""duo: hop over two or three tables in turn, a large table most of which is cold at any time.

`duo fk;3788;6`: derive f0...f9 and on into k0...k9, then hop as in hop, reading f and k in turn.
"""

import random

from clients.workloads.pocket.base import Instance, steps_for
from clients.workloads.pocket.hop import LETTERS, walk

LARGEST = {2: 26, 3: 18}
"""Hops by number of tables: deriving a table costs 70 tokens, so more tables leave fewer hops."""


class Duo:
    name = "duo"

    def prompt(self, rng: random.Random, seed: str, size: float) -> str:
        tables = rng.choice(list(LARGEST))
        letters = "".join(rng.sample(LETTERS, tables))
        return f"{self.name} {letters};{seed};{steps_for(size, LARGEST[tables])}"

    def solve(self, prompt: str) -> Instance | None:
        letters, seed, steps = prompt.removeprefix(f"{self.name} ").split(";")
        return walk(prompt, letters, seed, int(steps))
