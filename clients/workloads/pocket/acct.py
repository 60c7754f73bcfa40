"""acct: tables that are rewritten while they are read, so that stale copies are poison.

`acct fg;1290;6`: derive the tables as in hop, then make 6 bookings. A booking reads the account's
latest value, adds the amount and writes it back: `6:f3>0+6f3>6;`. The value written on the line
before names the account, in the tables' turn, and the value read there is the amount.
"""

import random

from clients.workloads.pocket.base import (
    SEED_DIGITS,
    Instance,
    derive,
    last_three,
    steps_for,
    varied,
    wanders,
)
from clients.workloads.pocket.hop import LETTERS

LARGEST = {1: 32, 2: 26}
"""Bookings by number of tables."""


class Acct:
    name = "acct"

    def prompt(self, rng: random.Random, seed: str, size: float) -> str:
        tables = rng.choice(list(LARGEST))
        letters = "".join(rng.sample(LETTERS, tables))
        return f"{self.name} {letters};{seed};{steps_for(size, LARGEST[tables])}"

    def solve(self, prompt: str) -> Instance | None:
        letters, seed, steps = prompt.removeprefix(f"{self.name} ").split(";")
        names = [f"{letter}{digit}" for letter in letters for digit in range(10)]
        values, text = derive(names, seed)
        table = dict(zip(names, values, strict=True))
        amount, account = values[-SEED_DIGITS - 1], values[-1]
        lines, keys, written = [text], [], []
        for step in range(int(steps)):
            key = f"{letters[step % len(letters)]}{account}"
            read = table[key]
            table[key] = (read + amount) % 10
            lines.append(f"{int(steps) - step}:{key}>{read}+{amount}{key}>{table[key]};")
            amount, account = read, table[key]
            keys.append(key)
            written.append(table[key])
        sound = varied(values) and wanders(keys)
        return Instance(prompt, "".join(lines), last_three(written)) if sound else None
