"""grid: row by row dynamic programming, a control in which recency is the right policy.

`grid 6697;f>3`: derive the first row a...f from the seed, then add 3 rows. A cell is the one above
it plus the one before it (the row's first: plus the last of the row above): `a>6+9a>5;`.
"""

import random

from clients.workloads.pocket.base import Instance, derive, last_three, varied

COLUMNS = "abcdefghij"
WIDTHS = range(5, 11)
LARGEST = 46
"""Cells below the first row."""


class Grid:
    name = "grid"

    def prompt(self, rng: random.Random, seed: str, size: float) -> str:
        width = rng.choice(WIDTHS)
        rows = min(9, max(1, round(size * LARGEST / width)))
        return f"{self.name} {seed};{COLUMNS[width - 1]}>{rows}"

    def solve(self, prompt: str) -> Instance | None:
        seed, shape = prompt.removeprefix(f"{self.name} ").split(";")
        column, rows = shape.split(">")
        names = list(COLUMNS[: COLUMNS.index(column) + 1])
        row, text = derive(names, seed)
        lines, cells = [text], list(row)
        for left in range(int(rows), 0, -1):
            lines.append(f"{left}:")
            for index, name in enumerate(names):
                above, before = row[index], cells[-1]
                row[index] = (above + before) % 10
                cells.append(row[index])
                lines.append(f"{name}>{above}+{before}{name}>{row[index]};")
        return Instance(prompt, "".join(lines), last_three(cells)) if varied(cells) else None
