"""`sluice report`: page, pictures and tables of one run or several."""

from pathlib import Path
from typing import Annotated

import typer

from cli.failures import one_line_errors
from cli.options import option
from cli.terminal import wide_console
from clients.report.files import PAGE, write_report
from clients.report.table import show

Runs = Annotated[list[Path], typer.Argument(help="Directories that `sluice sweep` wrote.")]
Out = Annotated[Path | None, option("Directory of the report; of a single run, its own.")]
Baseline = Annotated[
    str | None, option("Policy that others are compared with; r_kv, or else the first.")
]


def report(runs: Runs, out: Out = None, baseline_policy: Baseline = None) -> None:
    """Draw a report of runs: report.html, pictures, and the numbers as CSV and JSON.

    Several runs (other models, budgets or tasks) are shown as one.
    """
    with one_line_errors():
        summaries = write_report(*runs, out=out, baseline=baseline_policy)
    show(summaries, wide_console())
    typer.echo(f"report: {(out or runs[0]) / PAGE}; pictures and numbers beside it", err=True)
