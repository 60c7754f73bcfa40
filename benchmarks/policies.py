"""Which eviction policy keeps the answers right: policy x budget x task on the pocket models.

    python -m benchmarks.policies            the whole grid, about 40 minutes on 2 cores
    python -m benchmarks.policies --quick    a corner of it, under a minute

Through the real service, both models side by side, one server each. Interrupted runs go on where
they stopped. Writes benchmarks/results/policies.jsonl, and the table and the figure of
docs/policies.md. The last line on stdout is one JSON object.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from benchmarks import results
from clients import records
from clients.async_client import AsyncClient
from clients.demo import MODELS_DIRECTORY
from clients.local_server import local_servers
from clients.records import Record
from clients.report import curves
from clients.report.comparison import comparison
from clients.report.numbers import Summary, models_of, summarise
from clients.statistics import problem_means
from clients.sweep.plan import Plan, Settings
from clients.sweep.run import ROWS
from clients.sweep.runner import sweep
from clients.workloads.catalogue import choose
from clients.workloads.pocket import DEMO_FAMILIES

DOCUMENT = results.ROOT / "docs" / "policies.md"
BEGIN, END = "<!-- benchmarks.policies -->", "<!-- end -->"
RUNS = results.ROOT / "runs" / "policies"


@dataclass(frozen=True)
class Grid:
    """What is measured. `seed` names problems that no policy was tuned on."""

    models: tuple[str, ...] = ("pocket-llama", "pocket-qwen")
    tasks: tuple[str, ...] = DEMO_FAMILIES
    budgets: tuple[int | None, ...] = (None, 96, 128, 192)
    policies: tuple[str, ...] = ()  # empty: all that the server can use
    problems: int = 100  # per task
    concurrency: int = 50
    max_tokens: int = 448  # the longest traces are near 420
    seed: int = 7001


QUICK = Grid(
    models=("pocket-llama",), budgets=(None, 128), policies=("r_kv", "window"), problems=24
)


async def measure(grid: Grid, out: Path, console: Console) -> list[Record]:
    """Sweeps every model, one server each and all at once; rows of an earlier run are kept.

    Side by side, so tokens per second of these rows mean nothing and are not reported.
    """
    directories = [str(MODELS_DIRECTORY / name) for name in grid.models]
    options = ["--no-metrics", "--max-running", str(grid.concurrency)]
    async with local_servers(directories, out / "logs", options) as servers:
        sweeps = [
            _sweep(server.target, grid, out / server.model, console if index == 0 else None)
            for index, server in enumerate(servers)
        ]
        return [r for rows in await asyncio.gather(*sweeps) for r in rows]


async def _sweep(target: str, grid: Grid, out: Path, console: Console | None) -> list[Record]:
    policies = grid.policies
    if not policies:
        async with AsyncClient(target) as client:
            info = await client.model_info()
            policies = tuple(policy.name for policy in info.policies if not policy.unavailable)
    settings = Settings(
        concurrency=grid.concurrency,
        max_tokens=grid.max_tokens,
        temperature=0.0,
        seed=grid.seed,
    )
    problems = choose(grid.tasks, grid.problems, grid.seed)
    plan = Plan(problems, grid.budgets, policies, settings)
    return await sweep([target], plan, out, console or Console(quiet=True))


def row(summary: Summary, rows: Sequence[Record]) -> dict[str, object]:
    """A cell as it is stored: the summary, and the marks of its problems, so that cells can be
    paired: in the order of their ids, which is the same in every cell of a task.

    Speeds are left out: two servers shared the machine.
    """
    cell = msgspec.to_builtins(summary)
    marks = problem_means([r for r in rows if r.cell == summary.cell])
    for name in ("tokens_per_second", "wall_seconds"):
        del cell[name]
    return {**cell, "marks": [mark for _, mark in sorted(marks.items())]}


def publish(rows: Sequence[Record], document: Path) -> None:
    """Writes the table into the document, between its two marks, and the figure beside it."""
    text = document.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"{document} lacks the marks {BEGIN} and {END}, in that order")
    table = comparison(rows)
    document.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}")
    picture = curves.render(summarise(rows), curves.caption(rows))
    document.with_suffix(".png").write_bytes(picture.png)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="A corner of the grid.")] = False,
    problems: Annotated[int, typer.Option(min=2, help="Per task.")] = Grid.problems,
    seed: Annotated[int, typer.Option(help="Of the problems.")] = Grid.seed,
    out: Annotated[Path, typer.Option(help="Rows of every answer.")] = RUNS,
) -> None:
    """Measure every policy under every budget."""
    grid = QUICK if quick else replace(Grid(), problems=problems, seed=seed)
    out = out.with_name(out.name + "-quick") if quick else out
    console = Console(stderr=True)
    asyncio.run(measure(grid, out, console))
    rows = [r for name in grid.models for r in records.read(out / name / ROWS)]
    summaries = summarise(rows)
    if not quick:
        results.append("policies", [row(summary, rows) for summary in summaries])
        publish(rows, DOCUMENT)
    print(json.dumps({"models": models_of(summaries), "rows": msgspec.to_builtins(summaries)}))


if __name__ == "__main__":
    typer.run(main)
