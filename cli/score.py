"""`sluice score`: recorded answers judged again, and what that changes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from cli.failures import one_line_errors
from cli.terminal import wide_console
from clients import rescoring, statistics
from clients.records import Record

File = Annotated[
    Path, typer.Argument(help="A run, its rows.jsonl, or any JSONL with responses and golds.")
]
Write = Annotated[bool, typer.Option(help="Put the new verdicts into the run.")]
Show = Annotated[int, typer.Option(min=0, help="Changed answers to list.")]
SHOWN_LETTERS = 40


def score(file: File, write: Write = False, show: Show = 20) -> None:
    """Score recorded answers again and say what changed."""
    with one_line_errors():
        recorded = rescoring.read(file)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("scoring", total=len(recorded.rows))
            after = rescoring.rescore(recorded.rows, lambda: progress.advance(task))
        console = wide_console()
        console.print(_totals(recorded, after))
        if recorded.judged:
            _changes(console, rescoring.changes(recorded, after), show)
        if write:
            typer.echo(f"{rescoring.write(recorded, after)} rows replaced in {recorded.path}")


def _totals(recorded: rescoring.Recorded, after: Sequence[Record]) -> Table:
    """Pass@1 and the number of rows by status, before and after, by cell."""
    statuses = [status for status, _ in Counter(row.status for row in after).most_common()]
    table = Table(title=str(recorded.path), title_justify="left")
    for heading in ("cell", "rows", "Pass@1 before", "now", *statuses):
        table.add_column(heading, justify="left" if heading == "cell" else "right")
    for cell in dict.fromkeys(row.cell for row in after):
        old = [row for row in recorded.rows if row.cell == cell]
        new = [row for row in after if row.cell == cell]
        counts = Counter(row.status for row in new)
        table.add_row(
            escape(str(cell) if recorded.own else cell.task),
            str(len(new)),
            _percent(statistics.pass_at_1(old)) if recorded.judged else "-",
            _percent(statistics.pass_at_1(new)),
            *(str(counts[status]) for status in statuses),
        )
    return table


def _changes(console: Console, changed: Sequence[tuple[Record, Record]], show: int) -> None:
    verdicts = [pair for pair in changed if pair[0].correct != pair[1].correct]
    gained = sum(new.correct for _, new in verdicts)
    console.print(
        f"{len(changed)} rows changed: {gained} are right now, {len(verdicts) - gained} no longer, "
        f"{len(changed) - len(verdicts)} in what was extracted or in status alone",
        highlight=False,
    )
    if not changed or not show:
        return
    table = Table("problem", "sample", "gold", "extracted", "before", "now")
    for old, new in sorted(changed, key=lambda pair: pair[0].correct == pair[1].correct)[:show]:
        shown = [new.problem, str(new.sample), new.gold, new.extracted or "-"]
        table.add_row(*(escape(text[:SHOWN_LETTERS]) for text in shown), _word(old), _word(new))
    console.print(table)
    if len(changed) > show:
        console.print(f"and {len(changed) - show} more; --show {len(changed)} lists all")


def _word(row: Record) -> str:
    if row.status != "ok":
        return row.status
    return "right" if row.correct else "wrong"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
