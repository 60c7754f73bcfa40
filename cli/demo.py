"""`sluice demo`: the point of it all, in one command."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from cli.failures import fail, one_line_errors
from cli.terminal import wide_console
from clients.demo import FULL, QUICK, run_demo
from clients.report.files import PAGE
from clients.report.table import show

Quick = Annotated[bool, typer.Option("--quick", help="Fewer problems and budgets: under a minute.")]
Out = Annotated[Path, typer.Option(help="Directory of the report; an earlier demo is replaced.")]


def demo(quick: Quick = False, out: Out = Path("report")) -> None:
    """Measure the bundled models against the KV budget through the real service.

    The last line on stdout is one JSON object with the numbers.
    """
    with one_line_errors():
        summaries = asyncio.run(run_demo(QUICK if quick else FULL, out, Console(stderr=True)))
    show(summaries, wide_console())
    typer.echo(f"report: {out / PAGE}", err=True)
    if not sys.stdout.isatty():  # for programs; a person has the tables above, and cells.json
        print(json.dumps({"rows": msgspec.to_builtins(summaries)}))
    if failed := sum(summary.errors for summary in summaries):
        fail(f"{failed} requests failed; {out / 'rows.jsonl'} says why")
