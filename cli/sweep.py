"""`sluice sweep`: the same problems under many KV budgets, and a report of it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.failures import USAGE, fail, one_line_errors
from cli.options import (
    DATASETS_HELP,
    DEFAULT_SERVER,
    MaxTokens,
    Timeout,
    TopK,
    TopP,
    names,
    option,
)
from cli.terminal import wide_console
from clients.records import Record
from clients.report.files import PAGE, write_report
from clients.report.table import show
from clients.sweep.plan import Plan, Settings, parse_budgets
from clients.sweep.presets import DEFAULT, PRESETS, preset
from clients.sweep.runner import sweep as run_sweep
from clients.workloads.catalogue import choose
from clients.workloads.prompts import RECIPES, recipe

PROMPT_HELP = f"Around bare questions, one of {', '.join(RECIPES)}."
SAMPLING_HELP = f"One of {', '.join(PRESETS)}; the options below replace parts of it."

Out = Annotated[
    Path | None, option("Directory; a run that is there goes on. Else a new one in runs/.")
]
Servers = Annotated[
    list[str] | None,
    option(f"host:port, {DEFAULT_SERVER}; may be repeated. Servers of one model share its load."),
]
Datasets = Annotated[str, option(f"Some {DATASETS_HELP}")]
Prompt = Annotated[str, typer.Option(help=PROMPT_HELP)]
Preset = Annotated[str, typer.Option(help=SAMPLING_HELP)]
Budgets = Annotated[
    str,
    typer.Option(help="KV tokens, with commas; FIRST:LAST:STEP; full is the whole cache."),
]
Floor = Annotated[int | None, option("KV tokens that pressure may take larger budgets down to.")]
Policies = Annotated[str | None, option("With commas; the first is drawn as bars.")]
Problems = Annotated[int | None, option("Problems of each; all, or 48 of a pocket family.", "--n")]
Samples = Annotated[int, typer.Option(min=1, help="Answers to each problem.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight.")]
Temperature = Annotated[float | None, option("0 is greedy.")]
Seed = Annotated[int, typer.Option(help="Of the problems and of the draws.")]


def sweep(  # noqa: PLR0913 - the signature is the command line
    datasets: Datasets,
    out: Out = None,
    server: Servers = None,
    budgets: Budgets = "full",
    floor: Floor = None,
    policies: Policies = None,
    n: Problems = None,
    samples: Samples = Settings.samples,
    concurrency: Concurrency = Settings.concurrency,
    prompt: Prompt = Settings.prompt,
    sampling: Preset = DEFAULT,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = Settings.seed,
    timeout: Timeout = None,
) -> None:
    """Measure accuracy and throughput against the KV budget, cell by cell.

    Run the same command again to go on after an interruption. Ends with 1 if requests failed.
    """
    with one_line_errors(USAGE):
        recipe(prompt)
        drawn = preset(sampling)
        settings = Settings(
            samples=samples,
            concurrency=concurrency,
            max_tokens=drawn.max_tokens if max_tokens is None else max_tokens,
            floor=floor,
            temperature=drawn.temperature if temperature is None else temperature,
            top_p=drawn.top_p if top_p is None else top_p,
            top_k=drawn.top_k if top_k is None else top_k,
            seed=seed,
            request_seconds=timeout,
            prompt=prompt,
        )
        problems = choose(names(datasets), n, seed)
        plan = Plan(problems, parse_budgets(budgets), tuple(names(policies)), settings)
    if out is None:
        out = Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
        typer.echo(f"run: {out}", err=True)
    with one_line_errors(interrupted=f"stopped; the same command with --out {out} goes on"):
        rows = asyncio.run(run_sweep(server or [DEFAULT_SERVER], plan, out, Console(stderr=True)))
        summaries = write_report(out)
    show(summaries, wide_console())
    typer.echo(f"report: {out / PAGE}", err=True)
    _complain(rows)


def _complain(rows: Sequence[Record]) -> None:
    """Ends with 1 where requests failed."""
    reasons = Counter(row.error for row in rows if row.error is not None)
    if reasons:
        [(most, _)] = reasons.most_common(1)
        fail(f"{reasons.total()} requests failed, which the same command asks again; mostly {most}")
