"""What an elastic budget is worth under load: one pool, offered one to three times what fits.

    python -m benchmarks.elastic            both pocket models, about 10 minutes on 2 cores
    python -m benchmarks.elastic --quick    one model, one repeat, about a minute

The pool holds FIT outputs at the large budget. Each arm answers the same problems, closed loop, so
many requests in flight; arms alternate, medians are reported. Through the real service. Appends to
benchmarks/results/elastic.jsonl; the last line on stdout is one JSON object.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import results
from clients.async_client import AsyncClient
from clients.demo import MODELS_DIRECTORY
from clients.local_server import local_servers
from clients.scoring import score_math
from clients.settings import Chat, KvBudget, Request, Sampling, Stopping
from clients.workloads.pocket import DEMO_FAMILIES, problems
from clients.workloads.problem import Problem

LARGE, SMALL = 256, 128  # tokens
FIT = 12  # outputs at the large budget that the pool holds
BLOCK = 16
ARMS = {
    "queueing": KvBudget(max_tokens=0),  # the whole cache
    "fixed large": KvBudget(max_tokens=LARGE),
    "fixed small": KvBudget(max_tokens=SMALL),
    "elastic": KvBudget(max_tokens=LARGE, min_tokens=SMALL),
}
LOADS = (1, 2, 3)  # times what fits
MAX_TOKENS = 448  # the longest traces are near 420
SEED = 7002


@dataclass(frozen=True)
class Answer:
    """What one request came to; seconds since its arm started."""

    correct: bool
    tokens: int
    seconds: float
    queue_seconds: float
    evicted: int
    pressed: int
    preemptions: int


async def run_arm(
    client: AsyncClient, budget: KvBudget, asked: Sequence[Problem], in_flight: int
) -> dict[str, float]:
    """Answers all problems, `in_flight` at a time; the numbers of the arm."""
    gate = asyncio.Semaphore(in_flight)

    async def one(problem: Problem) -> Answer:
        async with gate:
            started = time.monotonic()
            completion = await client.complete(
                Request(
                    Chat.user(problem.prompt),
                    kv_budget=budget,
                    sampling=Sampling(temperature=0.0),
                    stopping=Stopping(max_tokens=MAX_TOKENS),
                    stream_interval=32,
                )
            )
            usage = completion.usage
            return Answer(
                correct=score_math(completion.text, problem.answer).correct,
                tokens=usage.completion_tokens,
                seconds=time.monotonic() - started,
                queue_seconds=usage.queue_seconds,
                evicted=usage.kv_tokens_evicted,
                pressed=usage.kv_tokens_pressed,
                preemptions=usage.preemptions,
            )

    started = time.monotonic()
    answers = await asyncio.gather(*(one(problem) for problem in asked))
    wall = time.monotonic() - started
    latencies = sorted(answer.seconds for answer in answers)
    return {
        "tokens_per_second": sum(answer.tokens for answer in answers) / wall,
        "pass_at_1": fmean(answer.correct for answer in answers),
        "n": len(answers),
        "queue_seconds": fmean(answer.queue_seconds for answer in answers),
        "latency_p50": median(latencies),
        "latency_p95": latencies[int(0.95 * (len(latencies) - 1))],
        "tokens_evicted": fmean(answer.evicted for answer in answers),
        "tokens_pressed": fmean(answer.pressed for answer in answers),
        "preemptions": sum(answer.preemptions for answer in answers),
    }


async def measure(model: str, repeats: int, per_task: int) -> list[dict[str, object]]:
    """One row per load and arm: medians over the repeats."""
    families = [problems(task, per_task, SEED) for task in DEMO_FAMILIES]
    asked = [problem for turn in zip(*families, strict=True) for problem in turn]
    options = [
        *("--kv-blocks", str(FIT * LARGE // BLOCK)),
        *("--max-running", str(FIT * max(LOADS))),
        "--no-metrics",
    ]
    runs: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory()))
        directory = str(MODELS_DIRECTORY / model)
        [server] = await stack.enter_async_context(local_servers([directory], logs, options))
        client = await stack.enter_async_context(AsyncClient(server.target))
        await run_arm(client, ARMS["elastic"], asked[:FIT], FIT)  # warm-up
        for _ in range(repeats):
            for load in LOADS:
                for name, budget in ARMS.items():
                    runs[load, name].append(await run_arm(client, budget, asked, FIT * load))
    return [
        {
            "model": model,
            "load": load,
            "in_flight": FIT * load,
            "arm": name,
            "repeats": repeats,
            **{key: median(run[key] for run in found) for key in found[0]},
        }
        for (load, name), found in runs.items()
    ]


def show(rows: Sequence[dict[str, object]]) -> None:
    """Prints the rows as a table."""
    names = ("tokens_per_second", "pass_at_1", "queue_seconds", "latency_p50", "latency_p95",
             "tokens_evicted", "tokens_pressed", "preemptions")  # fmt: skip
    table = Table("model", "load", "arm", *names)
    for row in rows:
        table.add_row(
            str(row["model"]),
            f"{row['load']} x",
            str(row["arm"]),
            *(f"{row[name]:,.3g}" if isinstance(row[name], float) else str(row[name])
              for name in names),
        )  # fmt: skip
    Console(width=160).print(table)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One model, one repeat.")] = False,
) -> None:
    """Measure elastic budgets against fixed ones and against queueing."""
    models = ("pocket-llama",) if quick else ("pocket-llama", "pocket-qwen")
    repeats, per_task = (1, 9) if quick else (3, 36)
    console = Console(stderr=True)
    rows: list[dict[str, object]] = []
    for model in models:
        console.print(f"measuring {model} ...", highlight=False)
        rows += asyncio.run(measure(model, repeats, per_task))
    show(rows)
    if not quick:
        results.append("elastic", rows)
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    typer.run(main)
