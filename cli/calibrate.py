"""`sluice calibrate`: makes the file that a calibrated or learned policy needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from cli.failures import USAGE, one_line_errors
from cli.options import option

Policy = Annotated[str, option("The policy whose file is made, e.g. tri_attention.")]
Model = Annotated[str, option("Directory or hub id of the model that it is made for.")]
Prompts = Annotated[
    Path | None, option("JSONL with a field prompt; a pocket model brings its own.")
]
Traces = Annotated[int | None, typer.Option(min=1, help="Answers that the model generates.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most new tokens of an answer.")]
Seed = Annotated[int, typer.Option(help="Of prompts, draws and training.")]


def calibrate(
    policy: Policy,
    model: Model,
    prompts: Prompts = None,
    traces: Traces = None,
    max_tokens: MaxTokens = 4096,
    seed: Seed = 0,
) -> None:
    """Measure or train what a policy needs, on text that the model itself generates.

    The file goes beside the model, where a server finds it when it starts.
    """
    from tools.calibrate.run import calibrate as run_calibration  # torch: seconds
    from tools.calibrate.run import check_policy

    with one_line_errors(USAGE):
        check_policy(policy)
    with one_line_errors(), _progress() as report:
        path, facts = run_calibration(
            policy,
            model,
            prompts=prompts,
            traces=traces,
            max_tokens=max_tokens,
            seed=seed,
            report=report,
        )
    typer.echo(", ".join(f"{name} {value}" for name, value in facts.items()), err=True)
    typer.echo(
        f"wrote {path}; start the server again, then ask for it with --policy {policy}", err=True
    )


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A report (tools.calibrate.traces) shown as bars; nothing at all before the first."""
    progress = Progress(console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            progress.start()
            tasks[what] = progress.add_task(what)
        progress.update(tasks[what], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            progress.stop()
