"""The table: one line per budget and policy, one column per task, for terminal and page."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clients.report.numbers import Summary, lines, models_of, tasks_of

# Totals over the tasks of a line: heading, and what is added up.
COUNTS: tuple[tuple[str, Callable[[Summary], int]], ...] = (
    ("evicted", lambda s: s.kv_tokens_evicted),
    ("preempted", lambda s: s.preemptions),
    ("truncated", lambda s: s.truncated),
    ("no answer", lambda s: s.no_answer),
    ("failed", lambda s: s.errors),
)


def cells_of(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines, as text: Pass@1 in per cent with its standard error, then the totals.

    A total that is zero everywhere has no column.
    """
    tasks = tasks_of(summaries)
    several = ["mean"] if len(tasks) > 1 else []
    counts = [(name, count) for name, count in COUNTS if any(count(s) for s in summaries)]
    headings = ["budget", "policy", *tasks, *several, "tok/s", *(name for name, _ in counts)]
    body = [
        [
            "full" if line.budget is None else str(line.budget),
            line.policy or "-",
            *(_mark(line.cells.get(task)) for task in tasks),
            *(percent(line.pass_at_1, line.stderr) for _ in several),
            "-" if line.tokens_per_second is None else f"{line.tokens_per_second:,.0f}",
            *(f"{sum(count(cell) for cell in line.cells.values()):,}" for _, count in counts),
        ]
        for line in lines(summaries)
    ]
    return headings, body


def show(summaries: Sequence[Summary], console: Console) -> None:
    """Prints one table per model."""
    for model in models_of(summaries):
        headings, body = cells_of([s for s in summaries if s.model == model])
        table = Table(
            title=f"{escape(model)}: Pass@1 (%) ± standard error",
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1),
        )
        for index, heading in enumerate(headings):
            table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
        for cells in body:
            table.add_row(*cells)
        console.print(table)


def percent(value: float | None, error: float | None) -> str:
    """0.92, 0.04 -> "92±4"; the files have more digits."""
    if value is None:
        return "-"
    return f"{100 * value:.0f}" + ("" if error is None else f"±{100 * error:.0f}")


def _mark(cell: Summary | None) -> str:
    return "-" if cell is None else percent(cell.pass_at_1, cell.stderr)
