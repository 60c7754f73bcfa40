"""The tables: one line per budget and policy, for terminal and page."""

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clients.report.differences import Compared
from clients.report.numbers import Line, Summary, lines, models_of, tasks_of

# Totals over the tasks of a line: heading, and what is added up. Those without a result always have
# a column, as no score means anything without them; of the others a total that is zero everywhere
# has none.
WITHOUT_RESULT: tuple[tuple[str, Callable[[Summary], int]], ...] = (
    ("truncated", lambda s: s.truncated),
    ("no answer", lambda s: s.no_answer),
    ("unscored", lambda s: s.unscored),
)
COUNTS: tuple[tuple[str, Callable[[Summary], int]], ...] = (
    ("failed", lambda s: s.errors),
    ("evicted", lambda s: s.kv_tokens_evicted),
    ("preempted", lambda s: s.preemptions),
)


def cells_of(
    summaries: Sequence[Summary], *, counted: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Headings and lines, as text: Pass@1 in per cent with its standard error, then the totals.

    `counted` puts the answers without a result beside each score instead of among the totals.
    """
    tasks = tasks_of(summaries)
    several = ["mean"] if len(tasks) > 1 else []
    mark = counted_score if counted else score
    counts = [c for c in COUNTS if any(c[1](s) for s in summaries)]
    counts = counts if counted else [*WITHOUT_RESULT, *counts]
    headings = ["budget", "policy", *tasks, *several, "tok/s", *(name for name, _ in counts)]
    body = [
        [
            *_setting(line),
            *(_mark(line.cells.get(task), mark) for task in tasks),
            *(percent(line.pass_at_1, line.stderr) for _ in several),
            "-" if line.tokens_per_second is None else f"{line.tokens_per_second:,.0f}",
            *(f"{sum(count(cell) for cell in line.cells.values()):,}" for _, count in counts),
        ]
        for line in lines(summaries)
    ]
    return headings, body


def samples_of(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of what several answers to each problem give; no lines with one.

    Mean over tasks in per cent: pass@k for every k, and the majority of all answers.
    """
    found = lines(summaries)
    counts = sorted({k for line in found for k in line.pass_at_k})
    if not counts:
        return [], []
    headings = ["budget", "policy", "pass@1", *(f"pass@{k}" for k in counts)]
    body = [
        [
            *_setting(line),
            percent(line.pass_at_1, line.stderr),
            *(percent(line.pass_at_k.get(k), None) for k in counts),
            percent(line.majority, None),
        ]
        for line in found
    ]
    return [*headings, f"majority@{counts[-1]}"], body


def lengths_of(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of how long answers were, per task: median and nine tenths in tokens."""
    tasks = tasks_of(summaries)
    body = [
        [*_setting(line), *(_mark(line.cells.get(task), _length) for task in tasks)]
        for line in lines(summaries)
    ]
    return ["budget", "policy", *tasks], body


def differences_of(compared: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of differences in points of a hundred, with their intervals."""
    tasks = list(dict.fromkeys(c.task for c in compared))
    groups: dict[tuple[str, str], dict[str, Compared]] = {}
    for c in compared:
        name = f"{c.budget} {c.policy or ''}".strip()
        other = "full" if c.against_budget is None else f"{c.against_budget} {c.against_policy}"
        groups.setdefault((name, other), {})[c.task] = c
    body = [
        [name, other, *(_difference(found.get(task)) for task in tasks)]
        for (name, other), found in groups.items()
    ]
    return ["cell", "minus", *tasks], body


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
    """0.921, 0.04 -> "92.1±4.0"; the files have more digits."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + ("" if error is None else f"±{100 * error:.1f}")


def score(cell: Summary) -> str:
    """Pass@1 of one task with its standard error."""
    return percent(cell.pass_at_1, cell.stderr)


def counted_score(cell: Summary) -> str:
    """The same, and in brackets how many answers were truncated, missing and unscored."""
    return f"{score(cell)} ({'/'.join(str(count(cell)) for _, count in WITHOUT_RESULT)})"


def _setting(line: Line) -> tuple[str, str]:
    return "full" if line.budget is None else str(line.budget), line.policy or "-"


def _mark(cell: Summary | None, mark: Callable[[Summary], str]) -> str:
    return "-" if cell is None else mark(cell)


def _length(cell: Summary) -> str:
    if cell.completion_tokens_median is None or cell.completion_tokens_p90 is None:
        return "-"
    return f"{cell.completion_tokens_median:,.0f} / {cell.completion_tokens_p90:,.0f}"


def _difference(compared: Compared | None) -> str:
    """A star where the interval excludes 0."""
    if compared is None:
        return "-"
    low, high = 100 * compared.low, 100 * compared.high
    star = " *" if compared.excludes_zero else ""
    return f"{100 * compared.difference:+.1f} [{low:+.1f}, {high:+.1f}]{star}"
