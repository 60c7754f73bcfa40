"""hop: follow pointers through one table of ten, which stays hot to the end.

`hop g;5979;4`: derive g0...g9 from the seed, then take 4 hops. A hop looks up the current key, adds
the last digit of the countdown, and goes to the key the sum names: `14:g6>9+4=3;`.
"""

import random

from clients.workloads.pocket.base import Instance, derive, last_three, steps_for, varied, wanders

LETTERS = "fghk"
LARGEST = 36


class Hop:
    name = "hop"

    def prompt(self, rng: random.Random, seed: str, size: float) -> str:
        return f"{self.name} {rng.choice(LETTERS)};{seed};{steps_for(size, LARGEST)}"

    def solve(self, prompt: str) -> Instance | None:
        letters, seed, steps = prompt.removeprefix(f"{self.name} ").split(";")
        return walk(prompt, letters, seed, int(steps))


def walk(prompt: str, letters: str, seed: str, steps: int) -> Instance | None:
    """Hops through the tables of `letters` in turn, counting down; shared with duo.

    The first key is the last value derived. Adding the countdown keeps the walk out of short
    cycles: adding the value read one hop earlier left two problems in three degenerate.
    """
    names = [f"{letter}{digit}" for letter in letters for digit in range(10)]
    values, text = derive(names, seed)
    table = dict(zip(names, values, strict=True))
    position = values[-1]
    lines, keys, totals = [text], [], []
    for left in range(steps, 0, -1):
        key = f"{letters[(steps - left) % len(letters)]}{position}"
        position = (table[key] + left) % 10
        lines.append(f"{left}:{key}>{table[key]}+{left % 10}={position};")
        keys.append(key)
        totals.append(position)
    sound = varied(values) and wanders(keys)
    return Instance(prompt, "".join(lines), last_three(totals)) if sound else None
