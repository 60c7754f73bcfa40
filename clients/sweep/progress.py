"""What a person sees while a sweep runs: one live line, and one plain line per finished cell."""

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clients import statistics
from clients.records import Cell, Record


class SweepProgress:
    """Draws on `console`; use it as a context around the whole sweep."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # in a log the plain lines say enough
        )
        self._task = self._bar.add_task("starting", total=total, now="")
        self._rows: list[Record] = []
        self._earlier: list[Record] = []
        self._begun = time.monotonic()

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
        self._rows, self._earlier, self._begun = [], list(earlier), time.monotonic()
        self._bar.update(self._task, description=str(cell), now="")

    def add(self, row: Record) -> None:
        """An answer of the current cell arrived."""
        self._rows.append(row)
        seconds = max(time.monotonic() - self._begun, 1e-9)
        tokens = sum(r.completion_tokens for r in self._rows)
        right = statistics.pass_at_1(self._earlier + self._rows)
        now = f"{tokens / seconds:,.0f} tok/s  Pass@1 so far {_percent(right)}"
        self._bar.update(self._task, advance=1, now=now)

    def end(self, cell: Cell, rows: Sequence[Record]) -> None:
        """A cell is complete; `rows` are all of its rows."""
        speed = statistics.tokens_per_second(rows)
        failed = sum(row.failed for row in rows)
        self.say(
            f"{cell}: Pass@1 {_percent(statistics.pass_at_1(rows))}, {len(rows) - failed} answers, "
            + (f"{speed:,.0f} tok/s" if speed is not None else "no speed")
            + (f", {failed} failed" if failed else "")
        )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
