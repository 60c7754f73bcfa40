"""`sluice doctor`: what this machine is, what is wrong with it, and what a KV budget gets here."""

import os
from typing import Annotated

import msgspec
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.failures import FAILED
from cli.options import option
from cli.serve import ConfigFile, configured, settings_of
from cli.terminal import wide_console
from service.checkup import Checkup, check_up
from service.host import Level

COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}

Model = Annotated[str | None, option("A directory, a hub id, or 'fake'.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]


def doctor(model: Model = None, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Say what hardware, versions and limits are here, and how many requests run at once by budget.

    Reads the settings that `sluice serve` would: --config, and the environment. Loads no weights.
    Exit code 1 if anything is FAIL.
    """
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    given = {} if model is None else {"model": model}
    report = check_up(configured(settings_of(given, config)))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        show(report, wide_console())
    if report.failed:
        raise typer.Exit(FAILED)


def show(report: Checkup, console: Console) -> None:
    """The findings a line each, then the table of budgets."""
    for finding in report.findings:
        colour = COLOURS[finding.level]
        subject = f"{escape(finding.subject):<11}"
        console.print(
            f"[{colour}]{finding.level:<4}[/{colour}]  {subject} {escape(finding.text)}",
            highlight=False,
            soft_wrap=True,
        )
        if finding.remedy:
            console.print(f"      {'':<11} -> {escape(finding.remedy)}", soft_wrap=True)
    if report.budgets:
        length = f"{report.max_sequence_tokens} tokens long"
        console.print(f"\n{escape(report.model)}: requests that run at once, each {length}")
        console.print(_table(report))


def _table(report: Checkup) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for name in ("KV budget", "blocks of each", "at once"):
        table.add_column(name, justify="right")
    table.add_column("limited by")
    for row in report.budgets:
        budget = "whole cache" if row.budget is None else str(row.budget)
        table.add_row(budget, str(row.blocks), str(row.at_once), row.limit)
    return table
