"""What a person sees while a sweep runs: one live line, and one plain line per finished cell."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clients import statistics
from clients.records import Cell, Record

DRAW_SECONDS = 0.2
PLAIN_SECONDS = 60.0  # between the lines of a long cell where there is no terminal


class SweepProgress:
    """Draws on `console`; use it as a context around the whole sweep."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # in a log the plain lines say enough
        )
        self._task = self._bar.add_task("starting", total=total, now="")
        self._cell = ""
        self._rows: list[Record] = []
        self._earlier: list[Record] = []
        self._running = 0
        self._begun = self._said = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> "SweepProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, cell: Cell, earlier: Sequence[Record]) -> None:
        """A cell starts; `earlier` are the rows it has from before an interruption."""
        self._cell, self._rows, self._earlier, self._running = str(cell), [], list(earlier), 0
        self._begun = self._said = time.monotonic()
        self._bar.update(self._task, description=self._cell, now="")

    def interrupted(self, text: str) -> None:
        """What was in flight is lost and will be asked again."""
        self._running = 0
        self.say(text)

    def sent(self) -> None:
        """A request of the current cell is on its way."""
        self._running += 1
        self._draw()

    def add(self, row: Record) -> None:
        """An answer of the current cell arrived."""
        self._rows.append(row)
        self._running -= 1
        self._bar.update(self._task, advance=1)
        self._draw()
        if self._bar.disable and time.monotonic() > self._said + PLAIN_SECONDS:
            self._said = time.monotonic()
            self.say(f"{self._cell}: {len(self._rows)} answers, {self._now()}")

    def end(self, cell: Cell, rows: Sequence[Record]) -> None:
        """A cell is complete; `rows` are all of its rows."""
        speed = statistics.tokens_per_second(rows)
        failed = sum(row.failed for row in rows)
        counts = {
            "truncated": sum(row.status == "truncated" for row in rows),
            "without an answer": sum(row.status == "no_answer" for row in rows),
            "unscored": sum(row.unscored for row in rows),
            "failed": failed,
        }
        self.say(
            f"{cell}: Pass@1 {_percent(statistics.pass_at_1(rows))}, {len(rows) - failed} answers, "
            + (f"{speed:,.0f} tok/s" if speed is not None else "no speed")
            + "".join(f", {count} {name}" for name, count in counts.items() if count)
        )

    def _draw(self) -> None:
        now = time.monotonic()
        if now > self._drawn + DRAW_SECONDS:
            self._drawn = now
            self._bar.update(self._task, now=self._now())

    def _now(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-9)
        tokens = sum(row.completion_tokens for row in self._rows)
        right = statistics.pass_at_1(self._earlier + self._rows)
        return f"{self._running} running  {tokens / seconds:,.0f} tok/s  Pass@1 {_percent(right)}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
