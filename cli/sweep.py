"""`sluice sweep`: the same problems under many KV budgets, and a report of it."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.failures import USAGE, fail, one_line_errors
from cli.options import DEFAULT_SERVER, MaxTokens, Timeout, TopK, TopP, option
from cli.terminal import wide_console
from clients.report.files import PAGE, write_report
from clients.report.table import show
from clients.sweep.plan import Plan, Settings, parse_budgets
from clients.sweep.runner import sweep as run_sweep
from clients.workloads.catalogue import WORKLOADS, choose

TASKS_HELP = f"Some of {', '.join(WORKLOADS)}; with commas."

Out = Annotated[
    Path | None, option("Directory; a run that is there goes on. Else a new one in runs/.")
]
Servers = Annotated[list[str] | None, option(f"host:port, {DEFAULT_SERVER}; repeat for models.")]
Tasks = Annotated[str | None, option(TASKS_HELP)]
Dataset = Annotated[Path | None, option("JSONL with a prompt or problem and an answer.")]
Budgets = Annotated[str, typer.Option(help="KV tokens, with commas; full is the whole cache.")]
Floor = Annotated[int | None, option("KV tokens that pressure may take larger budgets down to.")]
Policies = Annotated[str | None, option("With commas; the first is drawn as bars.")]
Problems = Annotated[int | None, option("Problems per task; 48, or the whole data set.", "--n")]
Samples = Annotated[int, typer.Option(min=1, help="Answers to each problem.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
Seed = Annotated[int, typer.Option(help="Of the problems and of the draws.")]


def sweep(  # noqa: PLR0913 - the signature is the command line
    out: Out = None,
    server: Servers = None,
    tasks: Tasks = None,
    dataset: Dataset = None,
    budgets: Budgets = "full",
    floor: Floor = None,
    policies: Policies = None,
    n: Problems = None,
    samples: Samples = Settings.samples,
    concurrency: Concurrency = Settings.concurrency,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = Settings.seed,
    timeout: Timeout = None,
) -> None:
    """Measure accuracy and throughput against the KV budget, cell by cell.

    Run the same command again to go on after an interruption. Ends with 1 if requests failed.
    """
    settings = Settings(
        samples=samples,
        concurrency=concurrency,
        max_tokens=max_tokens,
        floor=floor,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        request_seconds=timeout,
    )
    with one_line_errors(USAGE):
        problems = choose(_names(tasks), dataset, n, seed)
        plan = Plan(problems, parse_budgets(budgets), tuple(_names(policies)), settings)
    out = out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    with one_line_errors(interrupted=f"stopped; the same command with --out {out} goes on"):
        asyncio.run(run_sweep(server or [DEFAULT_SERVER], plan, out, Console(stderr=True)))
        summaries = write_report(out)
    show(summaries, wide_console())
    typer.echo(f"report: {out / PAGE}", err=True)
    if failed := sum(summary.errors for summary in summaries):
        fail(f"{failed} requests failed; their rows say why, and the same command retries them")


def _names(text: str | None) -> list[str]:
    parts = [part.strip() for part in (text or "").split(",")]
    return list(dict.fromkeys(part for part in parts if part))
